"""Classifies the images of a directory: `python -m tfadv.predict --model=x.keras DIRECTORY`."""

import sys

import tfadv
from tfadv import config
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("predict")
    with errors.user_errors("predict"):
        settings, path = config.predict(sys.argv[1:])
        if settings.check:
            return
        tfadv.register()
        from tfadv.config import prediction_run

        prediction = prediction_run.prepare(settings, path)
    if prediction.run():
        sys.exit(1)


if __name__ == "__main__":
    main()
