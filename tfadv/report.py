"""The paper's tables and figures from finished runs: `python -m tfadv.report runs/*`."""

import sys

from tfadv import config
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("report")
    with errors.user_errors("report"):
        settings = config.report(sys.argv[1:])
        from tfadv.config import report_run

        report = report_run.prepare(settings)
    if report.run():
        sys.exit(1)


if __name__ == "__main__":
    main()
