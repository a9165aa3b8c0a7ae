"""Looks into a trained network's normalization: `python -m tfadv.inspect --run_dir=runs/x`."""

import sys

import tfadv
from tfadv import config
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("inspect")
    with errors.user_errors("inspect"):
        settings, path, run = config.inspect(sys.argv[1:])
        if settings.check:
            return
        tfadv.register()
        from tfadv.config import inspection_run

        inspection = inspection_run.prepare(settings, path, run)
    inspection.run()


if __name__ == "__main__":
    main()
