"""What the workers of one training do together; the only file that knows Horovod.

Every function works in a single process too, where it needs no Horovod installed. The workers of a
launch are counted in the environment that `horovodrun` or `mpirun` gives them, or by
`horovod.tensorflow` itself where the program has initialized it.
"""

import contextlib
import ctypes
import os
import pathlib
import socket
import sys
import typing

import numpy as np
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
    except ImportError as error:
        raise ImportError(
            f"Horovod must be installed to run {launcher.workers()} workers: "
            f"tools/build_horovod.sh builds it ({error})"
        ) from None
    shares_cores = not tf.config.list_physical_devices("GPU")
    if shares_cores:
        # By default its thread asks all others every millisecond whether there is anything to
        # reduce, which took a quarter of a worker's core. There is one reduction in an update.
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")
    before = _threads()
    module.init()
    if shares_cores:
        _step_back(_threads() - before)
    return module


def _threads():
    return set(os.listdir("/proc/self/task")) if sys.platform == "linux" else set()


def _step_back(threads):
    # They interrupt the arithmetic on their core a dozen times in each cycle, and what it had in
    # the caches is gone. There is no hurry: their work comes when it waits.
    for thread in map(int, threads):
        with contextlib.suppress(OSError):  # one that ended, or a sandbox that forbids it
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def init():
    """Joins the other workers and takes this worker's share of the machine.

    Call it before TensorFlow has touched a GPU: each worker sees one GPU, that of its local rank,
    whose memory grows as needed. Workers that share a CPU split its cores, unless
    `TF_NUM_INTRAOP_THREADS` says otherwise.

    Raises:
        ImportError: If several workers were launched and Horovod is not installed.
        RuntimeError: If TensorFlow has touched a GPU before.
        ValueError: If two workers would share a GPU, or some workers have one and others do not;
            on all workers.
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
            # Operations side by side mostly wait, and one that waits must not be all.
            tf.config.threading.set_inter_op_parallelism_threads(max(2, cores))
        except RuntimeError:
            pass  # TensorFlow runs already, with the threads it has; slower, not wrong.
    # Last: TensorFlow is set up by the first operation, and Horovod gathers through one.
    _check_gpus(gather_object(_Seat.of_this_worker(gpus)))


class _Seat(typing.NamedTuple):
    """Where a worker runs.

    Args:
        machine: What tells machines apart, also those of containers that share one.
        host: The machine's name.
        local_workers: How many workers run there.
        gpus: How many GPUs this worker sees.
        bus_id: Of the GPU that it takes; None without one, or where it cannot be known.
        narrowed: Whether the launcher may have shown this worker a GPU of its own.
    """

    machine: str
    host: str
    local_workers: int
    gpus: int
    bus_id: str | None
    narrowed: bool

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
    """Raises where NCCL would refuse, which names neither the workers nor the GPU."""
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


def waits():
    """Whether this worker is in a collective operation outside of a graph, seen from any thread."""
    return _waiting


@contextlib.contextmanager
def waiting():
    """For the time of a collective operation outside of a graph, which `waits` then tells."""
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


def _on_host():
    # A few bytes, which NCCL would have travel over the GPU and wait there for its other work.
    return tf.device("CPU:0")


def size():
    """The number of workers."""
    horovod = _horovod()
    return 1 if horovod is None else horovod.size()


def rank():
    """The number of this worker, from 0 to `size() - 1`."""
    horovod = _horovod()
    return 0 if horovod is None else horovod.rank()


def local_size():
    """The number of workers on this machine."""
    horovod = _horovod()
    return 1 if horovod is None else horovod.local_size()


def local_rank():
    """The number of this worker among those on this machine."""
    horovod = _horovod()
    return 0 if horovod is None else horovod.local_rank()


def mean(tensors, name, half=0):
    """The mean over the workers of each tensor of a list, in one collective operation.

    Args:
        tensors: List of dense float tensors, of the same shapes on all workers.
        name: String, equal on all workers and not used twice at the same time.
        half: Integer, how many of the first tensors travel in float16: in half the bytes, rounded.

    Returns:
        A list of tensors like `tensors`.
    """
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return list(tensors)
    sent = [tf.cast(tensor, tf.float16) for tensor in tensors[:half]]
    sent += [_known(tensor) for tensor in tensors[half:]]
    means = list(tensors)
    # One group for each type, in an order that all workers share.
    for dtype in sorted({tensor.dtype.name for tensor in sent}):
        places = [i for i, tensor in enumerate(sent) if tensor.dtype.name == dtype]
        reduced = horovod.grouped_allreduce(
            [sent[i] for i in places],
            op=horovod.Average,
            name=f"{name}_{dtype}",
            ignore_name_scope=True,  # so that functions of any structure can meet in it
        )
        for i, tensor in zip(places, reduced, strict=True):
            means[i] = tf.cast(tf.ensure_shape(tensor, sent[i].shape), tensors[i].dtype)
    return means


def _known(tensor):
    # Horovod 0.28 has no bfloat16.
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def total(values):
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


def broadcast(variables):
    """Gives every worker the values that the variables have on rank 0.

    Args:
        variables: List of Keras variables, in the same order on all workers.
    """
    horovod = _horovod()
    if horovod is not None and horovod.size() > 1 and variables:
        # Given Keras's variables themselves, Horovod raises.
        values = [variable.value for variable in variables]
        sent = [value for value in values if value.dtype != tf.bfloat16]
        with waiting():
            horovod.broadcast_variables(sent, root_rank=0)
        for place, value in enumerate(values):
            if value.dtype == tf.bfloat16:
                received = horovod.broadcast(_known(value), 0, name=f"tfadv_variable_{place}")
                value.assign(tf.cast(received, value.dtype))


def broadcast_object(value):
    """What `value`, any picklable object, is on rank 0."""
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return value
    with waiting(), _on_host():
        return horovod.broadcast_object(value, root_rank=0, name="tfadv_object")


def gather_object(value):
    """The list of all workers' `value`, any picklable object, on every worker."""
    horovod = _horovod()
    if horovod is None or horovod.size() == 1:
        return [value]
    with waiting(), _on_host():
        return horovod.allgather_object(value, name="tfadv_objects")


def by_worker(values):
    """Text that says which workers have which value, such as `4 on worker 0 and 2 on worker 1`.

    Args:
        values: List, in the order of the ranks.
    """
    ranks = {}
    for rank, value in enumerate(map(str, values)):
        ranks.setdefault(value, []).append(rank)
    return " and ".join(f"{value} on {named(of)}" for value, of in ranks.items())


def named(ranks):
    """Text that names some workers, such as `workers 0, 1 and 3`."""
    *others, last = map(str, ranks)
    return f"workers {', '.join(others)} and {last}" if others else f"worker {last}"
