"""Measures clean and robust accuracy: `python -m tfadv.evaluate --run_dir=runs/x`."""

import sys

import tfadv
from tfadv import config
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("evaluate")
    with errors.user_errors("evaluate"):
        settings, path = config.evaluate(sys.argv[1:])
        if settings.check:
            return
        tfadv.register()
        from tfadv.config import evaluation_run

        evaluation = evaluation_run.prepare(settings, path)
    evaluation.run()


if __name__ == "__main__":
    main()
