"""How long will this take on N devices?  `python -m tfadv.plan --flagfile=... --workers=128`"""

from tfadv.programs import start


def main():
    """The program."""
    start.main("plan")


if __name__ == "__main__":
    main()
