"""Trains an image classifier adversarially: `python -m tfadv.train --norm=mbn`."""

from tfadv.programs import start


def main():
    """The program."""
    start.main("train")


if __name__ == "__main__":
    main()
