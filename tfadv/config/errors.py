"""How a program ends on a mistake of the user's: status 2, and one line from rank 0."""

import contextlib
import sys

from tfadv import launcher


@contextlib.contextmanager
def user_errors(program):
    """For what comes before the work: every mistake found there is the user's."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        _fail(program, error, launcher.rank() == 0)


@contextlib.contextmanager
def input_errors(program):
    """For the work itself: an image that cannot be read ends it, named; or another worker's end."""
    from tfadv import data

    try:
        yield
    except Exception as error:
        message = data.explain(error)
        if message is None and launcher.workers() > 1 and "horovod" in str(error).lower():
            # Horovod stops everyone when one worker ends, who has said why.
            print(
                f"tfadv.{program}: worker {launcher.rank()} stopped, since another one ended",
                file=sys.stderr,
                flush=True,
            )
            sys.exit(1)
        if message is None:
            raise
        # Only the worker that met it can name it.
        _fail(program, message, True)


def _fail(program, error, speaks):
    launcher.report_status(2)
    if speaks:
        print(f"tfadv.{program}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(2)
