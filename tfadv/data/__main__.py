"""`python -m tfadv.data prepare NAME`: prepares a data set before the workers need it."""

import argparse
import sys

from tfadv.data import tfds_files


def main(arguments=None):
    """Runs the command line; returns the exit status (2 for wrong input)."""
    parser = argparse.ArgumentParser(prog="python -m tfadv.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="download or unpack a data set, once")
    prepare.add_argument("name", help="a data set of tensorflow-datasets, such as cifar10")
    prepare.add_argument("--data_dir", help="where the prepared files go")
    prepare.add_argument(
        "--manual_dir", help="where ImageNet's two archives, or MNIST's four files, are"
    )
    options = parser.parse_args(arguments)
    try:
        directory = tfds_files.prepare(options.name, options.data_dir, options.manual_dir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.name} is prepared in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
