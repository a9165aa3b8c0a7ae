"""What the environment says of the launch, read without TensorFlow or Horovod."""

import os

_SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def workers():
    """How many workers `horovodrun` or `mpirun` started; 1 without a launcher."""
    return _first(_SIZE, 1)


def rank():
    """The number of this worker, from 0; 0 without a launcher."""
    return _first(_RANK, 0)


def report_status(status):
    """Leaves this worker's exit status where `run_horovod.sh` looks for it.

    `horovodrun` turns every failure of a worker into status 1.
    """
    path = os.environ.get("TFADV_STATUS_FILE")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(status))


def _first(names, default):
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
