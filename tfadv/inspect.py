"""Looks into a trained network's normalization: `python -m tfadv.inspect --run_dir=runs/x`."""

from tfadv.programs import start


def main():
    """The program."""
    start.main("inspect")


if __name__ == "__main__":
    main()
