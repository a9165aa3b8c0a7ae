"""What the workers of a training do together; the only file that knows Horovod.

Every function also works in a single process, where Horovod need not be installed. The number of
workers comes from the environment that `horovodrun` or `mpirun` gives them, or from
`horovod.tensorflow` itself if the program has initialized it.
"""

import contextlib
import ctypes
import os
import pathlib
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfadv import launcher

# Horovod's own Keras modules must never be imported: under Keras 3 their optimizer runs without
# reducing anything, and the workers drift apart silently.


def _horovod():
    """Horovod, initialized; None in a single process."""
    module = sys.modules.get("horovod.tensorflow")
    if module is not None and module.is_initialized():
        return module
    if launcher.workers() == 1:
        return None
    try:
        import horovod.tensorflow as module
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Horovod must be installed to run {launcher.workers()} workers: "
            f"tools/build_horovod.sh builds it ({error})"
        ) from None
    except (ImportError, OSError, tf.errors.OpError) as error:
        # TensorFlow raises the last, NotFoundError, for a library built for another TensorFlow.
        raise ImportError(
            f"the Horovod that is installed must work with TensorFlow {tf.version.VERSION}: "
            "uninstall it and run tools/build_horovod.sh, which builds one that does "
            f"({str(error).splitlines()[0]})"
        ) from None
    shares_cores = not tf.config.list_physical_devices("GPU")
    if shares_cores:
        # By default its thread asks all others every millisecond whether there is anything to
        # reduce, which took a quarter of a worker's core; an update has one reduction.
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")
    before = _threads()
    module.init()
    if shares_cores:
        # Horovod's threads would interrupt the arithmetic on their core a dozen times in each
        # cycle, and empty its caches. They are in no hurry: they have work when it waits.
        for thread in map(int, _threads() - before):
            with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids it
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    return module


def _threads():
    return set(os.listdir("/proc/self/task")) if sys.platform == "linux" else set()


def init() -> None:
    """Joins the other workers and takes this worker's share of the machine.

    Call it before the first TensorFlow operation. Each worker sees one GPU, that of its local rank,
    whose memory grows as needed. Workers that share a CPU split its cores, unless
    `TF_NUM_INTRAOP_THREADS` is set.

    Raises:
        ImportError: If several workers were launched and Horovod is not installed.
        RuntimeError: If TensorFlow has used a GPU before.
        ValueError: On all workers, if two workers would share a GPU, or some workers have one and
            others do not.
    """
    workers = local_size()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[local_rank() % len(gpus)]
        try:
            tf.config.set_visible_devices(mine, "GPU")
            tf.config.experimental.set_memory_growth(mine, True)
        except RuntimeError as error:
            raise RuntimeError(
                "tfadv.distributed.init() must come before the first TensorFlow operation, so that "
                f"this worker takes one GPU alone ({error})"
            ) from None
    elif workers > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        cores = max(1, len(os.sched_getaffinity(0)) // workers)
        try:
            tf.config.threading.set_intra_op_parallelism_threads(cores)
            # At least two, so that an operation that waits does not hold up all others.
            tf.config.threading.set_inter_op_parallelism_threads(max(2, cores))
        except RuntimeError:
            pass  # TensorFlow already runs with other threads, which is slower but not wrong.
    # Last, because it is the first TensorFlow operation.
    _check_gpus(gather_object(_Seat.of_this_worker(gpus)))


class _Seat(NamedTuple):
    """Where a worker runs."""

    machine: str  # tells machines apart; the same in all containers of one machine
    host: str  # the machine's name
    local_workers: int  # how many workers run there
    gpus: int  # how many GPUs this worker sees
    bus_id: str | None  # that of the GPU it takes; None without one, or if it is unknown
    narrowed: bool  # whether the launcher may have shown this worker a GPU of its own

    @classmethod
    def of_this_worker(cls, gpus):
        host, boot = socket.gethostname(), pathlib.Path("/proc/sys/kernel/random/boot_id")
        return cls(
            machine=boot.read_text() if boot.exists() else host,
            host=host,
            local_workers=local_size(),
            gpus=len(gpus),
            bus_id=_bus_id(local_rank() % len(gpus)) if gpus else None,
            narrowed=len(gpus) == 1 and "CUDA_VISIBLE_DEVICES" in os.environ,
        )


def _check_gpus(seats):
    """Raises where NCCL would, but names the workers and the GPU."""
    without = [rank for rank, seat in enumerate(seats) if not seat.gpus]
    if without and len(without) < len(seats):
        raise ValueError(
            "either all workers or none must have a GPU; received none for worker(s) "
            f"{', '.join(map(str, without))} (the first on {seats[without[0]].host})"
        )
    taken = {}
    for rank, seat in enumerate(seats):
        if seat.bus_id is not None:
            other = taken.setdefault((seat.machine, seat.bus_id), rank)
            if other != rank:
                raise ValueError(
                    f"each worker needs a GPU of its own; workers {other} and {rank} on "
                    f"{seat.host} would share GPU {seat.bus_id} (its {seat.local_workers} workers "
                    f"see {seat.gpus} GPU(s) each: start fewer, or look at CUDA_VISIBLE_DEVICES)"
                )
        elif 0 < seat.gpus < seat.local_workers and not seat.narrowed:
            raise ValueError(
                f"each local worker needs a GPU of its own; received {seat.local_workers} workers "
                f"and {seat.gpus} GPUs on {seat.host}"
            )


def _bus_id(number):
    """The PCI bus of a GPU, by which NCCL tells GPUs apart; None where CUDA cannot say."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetPCIBusId(text, len(text), device)
    )
    return None if failed else text.value.decode()


_waiting = False


def waits() -> bool:
    """Whether this worker is in a collective operation outside of a graph; from any thread."""
    return _waiting


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Context of a collective operation outside of a graph, in which `waits()` is true."""
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


def _on_host():
    # NCCL would send these few bytes through the GPU, where they would wait for its other work.
    return tf.device("CPU:0")


def describe_horovod() -> str:
    """Returns in words which Horovod is installed and what it was built with.

    It works without Horovod and before `init`. A Horovod that cannot be imported, such as one that
    was built for another TensorFlow, is described by its error.
    """
    try:
        import horovod
    except ImportError:
        return "not installed"
    try:
        import horovod.tensorflow as module
    except Exception as error:  # whatever a library raises that does not fit
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{horovod.__version__}, which cannot be imported ({reason[:300]})"
    kinds = ("gloo", "mpi", "nccl", "cuda", "rocm")
    built = [kind for kind in kinds if getattr(module, f"{kind}_built")()]
    return f"{horovod.__version__}, built with {', '.join(built) or 'none of Gloo, MPI and NCCL'}"


def size() -> int:
    """The number of workers."""
    horovod = _horovod()
    return 1 if horovod is None else horovod.size()


def rank() -> int:
    """The number of this worker, from 0 to `size() - 1`."""
    horovod = _horovod()
    return 0 if horovod is None else horovod.rank()


def local_size() -> int:
    """The number of workers on this machine."""
    horovod = _horovod()
    return 1 if horovod is None else horovod.local_size()


def local_rank() -> int:
    """The number of this worker among those on this machine."""
    horovod = _horovod()
    return 0 if horovod is None else horovod.local_rank()


def mean(tensors: list[tf.Tensor], name: str, half: int = 0) -> list[tf.Tensor]:
    """The mean over the workers of each tensor of a list, in one collective operation.

    Args:
        tensors: List of dense float tensors, of the same shapes on all workers.
        name: String, equal on all workers and not used twice at the same time.
        half: Integer, how many of the first tensors are sent as float16, which halves the bytes.

    Returns:
        A list of tensors like `tensors`.
    """
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return list(tensors)
    sent = [tf.cast(tensor, tf.float16) for tensor in tensors[:half]]
    sent += [_without_bfloat16(tensor) for tensor in tensors[half:]]
    means = list(tensors)
    # One group per type, in the same order on all workers.
    for dtype in sorted({tensor.dtype.name for tensor in sent}):
        places = [i for i, tensor in enumerate(sent) if tensor.dtype.name == dtype]
        reduced = horovod.grouped_allreduce(
            [sent[i] for i in places],
            op=horovod.Average,
            name=f"{name}_{dtype}",
            ignore_name_scope=True,  # so that functions of different structure can meet in it
        )
        for i, tensor in zip(places, reduced, strict=True):
            means[i] = tf.cast(tf.ensure_shape(tensor, sent[i].shape), tensors[i].dtype)
    return means


def _without_bfloat16(tensor):
    # Horovod 0.28 does not know the type.
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def total(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The sum over the workers of an array of counts, exact up to 2**53.

    Args:
        values: NumPy array or nested list of numbers.

    Returns:
        A float64 NumPy array.
    """
    values = np.asarray(values, np.float64)
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return values
    with waiting(), _on_host():
        return horovod.allreduce(tf.constant(values), op=horovod.Sum, name="tfadv_total").numpy()


def broadcast(variables: list[keras.Variable]) -> None:
    """Gives the variables of every worker the values that they have on rank 0.

    Args:
        variables: List of Keras variables, in the same order on all workers.
    """
    horovod = _horovod()
    if horovod is not None and horovod.size() > 1 and variables:
        # Horovod raises if it is given the Keras variables themselves.
        values = [variable.value for variable in variables]
        sent = [value for value in values if value.dtype != tf.bfloat16]
        with waiting():
            horovod.broadcast_variables(sent, root_rank=0)
        for place, value in enumerate(values):
            if value.dtype == tf.bfloat16:
                received = horovod.broadcast(
                    _without_bfloat16(value), 0, name=f"tfadv_variable_{place}"
                )
                value.assign(tf.cast(received, value.dtype))


def broadcast_object(value: Any) -> Any:
    """Returns the `value`, any picklable object, of rank 0."""
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return value
    with waiting(), _on_host():
        return horovod.broadcast_object(value, root_rank=0, name="tfadv_object")


def gather_object(value: Any) -> list:
    """Returns, on every worker, the list of all workers' `value`, any picklable object."""
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return [value]
    with waiting(), _on_host():
        return horovod.allgather_object(value, name="tfadv_objects")


def by_worker(values: Iterable) -> str:
    """Says which workers have which of the values, which come in the order of the ranks.

    Such as `4 on worker 0 and 2 on worker 1`.
    """
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(map(str, values)):
        ranks.setdefault(value, []).append(rank)
    return " and ".join(f"{value} on {named(having)}" for value, having in ranks.items())


def named(ranks: Iterable[int]) -> str:
    """Names some workers, such as `workers 0, 1 and 3`."""
    *others, last = map(str, ranks)
    return f"workers {', '.join(others)} and {last}" if others else f"worker {last}"
