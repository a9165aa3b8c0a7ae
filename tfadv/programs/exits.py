"""Exit statuses and error messages.

Status 2 is a usage error, reported by rank 0; 1 is a failure of the machine, such as a full disk;
and `launcher.RESUME` asks for a restart with `--resume`.
"""

import contextlib
import errno
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from tfadv import launcher


def show_warnings(program: str) -> None:
    """Prints each warning as one line, once and on rank 0, for the rest of the process.

    Python prints a path and a line of code, which say nothing to the user of a program. Warnings
    that are not for users, such as those of NumPy's arithmetic, are still printed that way.
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


# Errors of a disk, a server or a network that fails or is full, which may pass.
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        "EIO EREMOTEIO ESTALE ENOSPC EDQUOT ENOMEM EMFILE ENFILE ETIMEDOUT EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH ECONNRESET ECONNREFUSED ECONNABORTED ENOTCONN ENODEV"
    ).split()
    if hasattr(errno, name)
}


# What a plain `pip install tfadv` leaves out, and which extra brings it.
_EXTRAS = {
    "matplotlib": "programs",
    "pandas": "programs",
    "sklearn": "quickstart",
    "tensorflow_datasets": "programs",
}

# Seconds that rank 0 has to report the same error as another worker.
_RANK_0_FIRST = 10
# Seconds that another worker has to end before those that end because of it, since launchers report
# the status of the one that ended first. A process with TensorFlow takes some to end.
_CAUSE_FIRST = 10


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Reports errors in the setup as usage errors, unless the machine fails."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        machine = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
        status = 1 if machine else 2
        if launcher.rank() and not machine:
            # If all workers meet this error, rank 0 reports it, and the launcher ends this worker
            # in its sleep. If not, it belongs to this machine, such as missing data.
            launcher.report_status(status)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_RANK_0_FIRST)
        _fail(program, error, status, True)
    except Exception as error:
        _stop_after_another(program, error)
        raise


def stop_without_loss() -> None:
    """Lets SIGINT and SIGTERM end a training with status 75 before it has anything to save."""

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        launcher.report_status(launcher.RESUME)
        sys.exit(launcher.RESUME)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGINT is in the background of a shell
            signal.signal(number, stop)


@contextlib.contextmanager
def input_errors(program: str, state: Callable[[], str] | None = None) -> Iterator[None]:
    """Reports what ends the work of a program in one line.

    That is an image that cannot be read, a file that cannot be written, the end of another worker,
    or weights that became non-finite.

    Args:
        program: The name of the program.
        state: Returns what is left of a training whose weights became non-finite.
    """
    from tfadv import data
    from tfadv.training import TrainingError

    try:
        yield
    except TrainingError as error:
        # All workers raise it together.
        _fail(program, f"{error}; {state()}" if state else error, 1, launcher.rank() == 0)
    except Exception as error:
        message = data.explain(error)
        if message is None:
            _stop_after_another(program, error)
            if isinstance(error, OSError):
                _fail(program, error, 1, True)
            raise
        # Only the worker that met it can name it. A failing file system is no usage error.
        _fail(program, message, 1 if data.is_io_error(error) else 2, True)


def _stop_after_another(program, error):
    """Ends this worker if `error` is Horovod's, which stops all workers when one ends or hangs."""
    if launcher.workers() > 1 and "horovod" in str(error).lower():
        from tfadv import watchdog

        silent = "".join(f"; {worker}" for worker in watchdog.silent())
        print(
            f"tfadv.{program}: worker {launcher.rank()} stopped, since another one ended{silent}",
            file=sys.stderr,
            flush=True,
        )
        # The launcher ends this worker in its sleep.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_CAUSE_FIRST)
        sys.exit(1)


def _fail(program, error, status, speaks):
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        error = f"{error}: pip install 'tfadv[{_EXTRAS[error.name]}]' brings it"
    launcher.report_status(status)
    if speaks:
        print(f"tfadv.{program}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(status)
