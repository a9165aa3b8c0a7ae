"""Trains an image classifier adversarially: `python -m tfadv.train --norm=mbn`."""

import sys

import tfadv
from tfadv import config, launcher
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("train")
    with errors.user_errors("train"):
        settings, run = config.train(sys.argv[1:])
        if settings.check:
            launcher.report_run(run.path)
            return
        errors.stop_without_loss()
        tfadv.register()
        from tfadv.config import training_run

        training = training_run.prepare(settings, run)
    training.fit()


if __name__ == "__main__":
    main()
