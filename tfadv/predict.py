"""Classifies the images of a directory: `python -m tfadv.predict --model=x.keras DIRECTORY`."""

from tfadv.programs import start


def main():
    """The program."""
    start.main("predict")


if __name__ == "__main__":
    main()
