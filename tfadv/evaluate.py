"""Measures clean and robust accuracy: `python -m tfadv.evaluate --run_dir=runs/x`."""

from tfadv.programs import start


def main():
    """The program."""
    start.main("evaluate")


if __name__ == "__main__":
    main()
