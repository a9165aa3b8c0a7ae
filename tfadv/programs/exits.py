"""Exit statuses and error messages.

2 is a mistake of the user's, from rank 0; 1 what failed around us, such as a disk; and
`launcher.RESUME` asks to be started again with `--resume`.
"""

import contextlib
import errno
import signal
import sys
import time
import warnings

from tfadv import launcher


def show_warnings(program):
    """Has each warning printed as one line, once and by rank 0, for as long as the process lives.

    Python's own form of it, a path and a line of code, tells a user of a program nothing. Warnings
    that are not for users, such as those of NumPy's arithmetic, keep it.
    """
    before, shown = warnings.showwarning, set()

    def show(message, category, *place, **options):
        if not issubclass(category, UserWarning):
            before(message, category, *place, **options)
            return
        text = " ".join(str(message).split())
        if launcher.rank() == 0 and text not in shown:
            shown.add(text)
            print(f"tfadv.{program}: warning: {text}", file=sys.stderr, flush=True)

    warnings.showwarning = show


# What a disk, a server or a network answers that fails, or is full, for the time being.
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        "EIO EREMOTEIO ESTALE ENOSPC EDQUOT ENOMEM EMFILE ENFILE ETIMEDOUT EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH ECONNRESET ECONNREFUSED ECONNABORTED ENOTCONN ENODEV"
    ).split()
    if hasattr(errno, name)
}


# How long rank 0 has, in seconds, to report the same mistake as another worker.
_RANK_0_FIRST = 10


@contextlib.contextmanager
def user_errors(program):
    """For what comes before the work: a mistake in there is the user's, unless a machine fails."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        machine = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
        status = 1 if machine else 2
        if launcher.rank() and not machine:
            # If all workers make this mistake, rank 0 reports it for all of them, and the launcher
            # ends this worker in its sleep. If not, it is this machine's, such as missing data.
            launcher.report_status(status)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_RANK_0_FIRST)
        _fail(program, error, status, True)
    except Exception as error:
        _stop_after_another(program, error)
        raise


def stop_without_loss():
    """For a training's preparation: a signal ends it as it ends a training behind a checkpoint."""

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        launcher.report_status(launcher.RESUME)
        sys.exit(launcher.RESUME)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell's background has Ctrl-C
            signal.signal(number, stop)


@contextlib.contextmanager
def input_errors(program, state=None):
    """For the work itself: an image that cannot be read ends it, named; or another worker's end.

    Or a file that cannot be written, by whichever worker meets it; or weights that cannot be
    trained any further, to which `state()` adds what is left of the training.
    """
    from tfadv import data
    from tfadv.training import TrainingError

    try:
        yield
    except TrainingError as error:
        # All workers raise it together.
        _fail(program, f"{error}; {state()}", 1, launcher.rank() == 0)
    except Exception as error:
        message = data.explain(error)
        if message is None:
            _stop_after_another(program, error)
            if isinstance(error, OSError):
                _fail(program, error, 1, True)
            raise
        # Only the worker that met it can name it. A file system that fails is no user's mistake.
        _fail(program, message, 1 if data.is_io_error(error) else 2, True)


def _stop_after_another(program, error):
    """Ends this worker if `error` is Horovod's, which stops all when one ends or hangs."""
    if launcher.workers() > 1 and "horovod" in str(error).lower():
        from tfadv import watchdog

        silent = "".join(f"; {worker}" for worker in watchdog.silent())
        print(
            f"tfadv.{program}: worker {launcher.rank()} stopped, since another one ended{silent}",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)


def _fail(program, error, status, speaks):
    launcher.report_status(status)
    if speaks:
        print(f"tfadv.{program}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(status)
