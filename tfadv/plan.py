"""How long will this take on N devices?  `python -m tfadv.plan --flagfile=... --workers=128`"""

import sys

from tfadv import config
from tfadv.config import errors


def main():
    """The program."""
    errors.show_warnings("plan")
    with errors.user_errors("plan"):
        settings = config.plan(sys.argv[1:])
        if settings.check:
            return
        from tfadv.config import planning_run

        plan = planning_run.prepare(settings)
    plan.run()


if __name__ == "__main__":
    main()
