"""What the environment says about the launch, read without TensorFlow or Horovod."""

import contextlib
import fcntl
import os
import shutil
from typing import TextIO

# Set by horovodrun (Gloo), by Open MPI, and by MPICH and its relatives.
_SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")

# The exit status (EX_TEMPFAIL) of a training that saved a checkpoint and stopped: resume it.
RESUME = 75


def workers() -> int:
    """How many workers `horovodrun` or `mpirun` started; 1 without a launcher."""
    return _first(_SIZE, 1)


def rank() -> int:
    """The number of this worker, from 0; 0 without a launcher."""
    return _first(_RANK, 0)


def precedes_workers() -> bool:
    """Whether this process only checks the flags, before a launcher starts the workers."""
    return any(name in os.environ for name in _SIZE) and not any(
        name in os.environ for name in _RANK
    )


def is_terminal(stream: TextIO) -> bool:
    """Whether a line of a stream can be rewritten, because a person watches it.

    `mpirun` gives its workers a terminal even where it writes to a file itself, so a worker of any
    launcher has one only if `run_horovod.sh` says so, by TFADV_COLUMNS.
    """
    if any(name in os.environ for name in _RANK):
        return "TFADV_COLUMNS" in os.environ
    return stream.isatty()


def columns() -> int:
    """The width of the terminal that `is_terminal` speaks of, in characters."""
    return int(os.environ.get("TFADV_COLUMNS") or shutil.get_terminal_size().columns)


def lock_seconds() -> float:
    """How long a restarted training waits for the one before it to end; 0 by default."""
    return float(os.environ.get("TFADV_LOCK_SECONDS", 0))


def report_status(status: int) -> None:
    """Leaves this worker's exit status for `run_horovod.sh`, unless another one was faster.

    `horovodrun` turns every failure of a worker into status 1. Workers that end after the first one
    end because it did.
    """
    _report("TFADV_STATUS_FILE", str(status))


def report_run(path: str | os.PathLike) -> None:
    """Leaves the directory of the run for `run_horovod.sh`."""
    _report("TFADV_RUN_FILE", os.path.abspath(path))


def _report(name, text):
    # A worker on another machine than the launcher has no such file.
    with contextlib.suppress(OSError):
        if name in os.environ:
            with open(os.environ[name], "a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not file.seek(0, os.SEEK_END):
                    file.write(text)


def _first(names, default):
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), default)
