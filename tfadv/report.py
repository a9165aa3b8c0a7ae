"""The paper's tables and figures from finished runs: `python -m tfadv.report runs/*`."""

from tfadv.programs import start


def main():
    """The program."""
    start.main("report")


if __name__ == "__main__":
    main()
