"""Distributed functions in a single process, and how workers share a machine."""

import os
import sys
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import distributed, launcher


@pytest.fixture(autouse=True)
def single(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("HOROVOD_", "OMPI_", "PMI_")):
            monkeypatch.delenv(name)


def test_a_single_process_leaves_values_alone_and_imports_no_horovod():
    # Another test of this process may have imported it.
    before = {name for name in sys.modules if name.split(".")[0] == "horovod"}
    distributed.init()
    assert (distributed.size(), distributed.rank()) == (1, 0)
    assert (distributed.local_size(), distributed.local_rank()) == (1, 0)
    tensors = [tf.constant([1.0, 2.0]), tf.constant(3.0, tf.float16)]
    means = distributed.mean(tensors, "name")
    assert all(a is b for a, b in zip(means, tensors, strict=True)) and means is not tensors
    totals = distributed.total([[1, 2], [3, 2**53]])
    assert totals.dtype == np.float64 and totals.tolist() == [[1, 2], [3, 2**53]]
    value = object()
    assert distributed.broadcast_object(value) is value
    assert distributed.gather_object(value) == [value]
    variable = keras.Variable(4.0)
    distributed.broadcast([variable])
    assert float(variable) == 4.0
    assert {name for name in sys.modules if name.split(".")[0] == "horovod"} == before


def test_workers_are_named_by_what_they_have():
    assert distributed.by_worker([4, 2]) == "4 on worker 0 and 2 on worker 1"
    listed = distributed.by_worker([0.1, None, 0.1, 0.1])
    assert listed == "0.1 on workers 0, 2 and 3 and None on worker 1"
    assert distributed.named([1, 3]) == "workers 1 and 3"


@pytest.mark.parametrize("launcher", ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_several_workers_need_horovod(monkeypatch, launcher):
    monkeypatch.setenv(launcher, "3")
    monkeypatch.setitem(sys.modules, "horovod", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "horovod.tensorflow", raising=False)
    with pytest.raises(ImportError, match="Horovod must be installed to run 3 workers: tools/"):
        distributed.size()
    monkeypatch.setenv(launcher, "1")
    assert distributed.size() == 1


@pytest.mark.parametrize(
    "error",
    [
        "tf.errors.NotFoundError(None, None, 'undefined symbol: Status\\nbacktrace')",
        "ImportError('Extension horovod.tensorflow has not been built')",
    ],
)
def test_a_horovod_of_another_tensorflow_is_named_in_one_line(monkeypatch, tmp_path, error):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").touch()
    (tmp_path / "horovod" / "tensorflow.py").write_text(f"import tensorflow as tf\nraise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    with pytest.raises(
        ImportError, match="^the Horovod that is installed must work with"
    ) as raised:
        distributed.size()
    assert str(raised.value).endswith(("(undefined symbol: Status)", "has not been built)"))
    sys.modules.pop("horovod", None)


class Machine:
    """`tf.config` of a worker on a machine with GPUs and cores; records how it is called."""

    def __init__(self, monkeypatch, gpus, workers=1, rank=0, cores=8):
        self.calls = []
        devices = [
            tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(gpus)
        ]
        patch = monkeypatch.setattr
        patch(distributed, "local_size", lambda: workers)
        patch(distributed, "local_rank", lambda: rank)
        patch(tf.config, "list_physical_devices", lambda kind=None: devices)
        patch(tf.config, "set_visible_devices", self._record("visible"))
        patch(tf.config.experimental, "set_memory_growth", self._record("growth"))
        patch(tf.config.threading, "set_intra_op_parallelism_threads", self._record("intra"))
        patch(tf.config.threading, "set_inter_op_parallelism_threads", self._record("inter"))
        patch(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    def _record(self, name):
        return lambda value, *rest: self.calls.append((name, getattr(value, "name", value), *rest))


def gpu(number):
    name = f"/physical_device:GPU:{number}"
    return [("visible", name, "GPU"), ("growth", name, True)]


@pytest.mark.parametrize(
    ("gpus", "workers", "rank", "mine"),
    [
        (4, 4, 0, 0),
        (4, 4, 3, 3),
        (8, 2, 1, 1),  # more GPUs than workers
        (1, 1, 0, 0),
        (1, 4, 3, 0),  # CUDA_VISIBLE_DEVICES shows each worker only its own GPU
        (4, 1, 0, 0),  # a single process takes one GPU
    ],
)
def test_each_local_rank_takes_one_gpu_with_memory_growth(monkeypatch, gpus, workers, rank, mine):
    machine = Machine(monkeypatch, gpus, workers, rank)
    if gpus < workers:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(rank))
    distributed.init()
    assert machine.calls == gpu(mine)


@pytest.mark.parametrize("gpus", [1, 2])
def test_fewer_gpus_than_workers_is_an_error(monkeypatch, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    Machine(monkeypatch, gpus=gpus, workers=3, rank=2)
    message = f"GPU of its own; received 3 workers and {gpus} GPUs on "
    with pytest.raises(ValueError, match=message):
        distributed.init()


def seats(*places, workers=2, gpus=1, narrowed=True):
    """Workers on machines, given as (machine, bus number of the GPU or None if it has none)."""
    return [
        distributed._Seat(name, f"host-{name}", workers, gpus if bus else 0, bus, narrowed)
        for name, bus in places
    ]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        pytest.param(
            # A shell with CUDA_VISIBLE_DEVICES=0 starts two workers.
            seats(("a", "0000:3B:00.0"), ("a", "0000:3B:00.0")),
            r"each worker needs a GPU of its own; workers 0 and 1 on host-a would share GPU "
            r"0000:3B:00\.0 \(its 2 workers see 1 GPU\(s\) each: start fewer, or look at "
            r"CUDA_VISIBLE_DEVICES\)",
            id="one GPU for two workers",
        ),
        pytest.param(
            # A driver has failed: two workers with GPUs would wait for two without.
            seats(("a", "0"), ("a", "1"), ("b", None), ("b", None)),
            r"either all workers or none must have a GPU; received none for worker\(s\) 2, 3 "
            r"\(the first on host-b\)",
            id="a machine without its GPUs",
        ),
        pytest.param(seats(("b", None), ("b", None)), None, id="no GPUs"),
        pytest.param(seats(("a", "3B"), ("b", "3B")), None, id="equal numbers on two machines"),
        pytest.param(
            # Slurm with --gpus-per-task=2: each task takes one of its own two.
            seats(
                ("a", "3B"),
                ("a", "AF"),
                ("a", "D8"),
                ("a", "18"),
                workers=4,
                gpus=2,
                narrowed=False,
            ),
            None,
            id="more workers than GPUs that each of them sees",
        ),
    ],
)
def test_each_worker_needs_a_gpu_of_its_own(workers, message):
    if message is None:
        distributed._check_gpus(workers)
    else:
        with pytest.raises(ValueError, match=f"^{message}$"):
            distributed._check_gpus(workers)


def test_a_gpus_bus_number_is_that_of_cudas_driver(monkeypatch):
    class Driver:
        cuInit = staticmethod(lambda flags: 0)

        @staticmethod
        def cuDeviceGet(device, number):
            device._obj.value = 40 + number
            return 0

        @staticmethod
        def cuDeviceGetPCIBusId(text, size, device):
            text.value = f"0000:{device.value}:00.0".encode()[: size - 1]
            return 0

    monkeypatch.setattr(distributed.ctypes, "CDLL", lambda name: Driver())
    assert distributed._bus_id(2) == "0000:42:00.0"
    Driver.cuInit = staticmethod(lambda flags: 100)  # CUDA_ERROR_NO_DEVICE
    assert distributed._bus_id(2) is None


def test_a_tensorflow_that_runs_already_cannot_take_one_gpu(monkeypatch):
    Machine(monkeypatch, gpus=2)

    def running(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", running)
    message = r"^tfadv\.distributed\.init\(\) must come before the first TensorFlow operation"
    with pytest.raises(RuntimeError, match=message):
        distributed.init()


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(8, 2, (4, 4)), (7, 2, (3, 3)), (2, 2, (1, 2)), (2, 8, (1, 2))],
)
def test_workers_split_the_cores_of_a_machine_without_gpus(monkeypatch, cores, workers, threads):
    machine = Machine(monkeypatch, gpus=0, workers=workers, cores=cores)
    distributed.init()
    assert machine.calls == [("intra", threads[0]), ("inter", threads[1])]


def test_single_worker_and_explicit_threads_are_left_alone(monkeypatch):
    machine = Machine(monkeypatch, gpus=0)
    distributed.init()
    machine = Machine(monkeypatch, gpus=0, workers=2)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    distributed.init()
    assert machine.calls == []


def test_threads_of_a_running_tensorflow_stay(monkeypatch):
    Machine(monkeypatch, gpus=0, workers=2)

    def running(_):
        raise RuntimeError("Intra op parallelism cannot be modified after initialization.")

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", running)
    distributed.init()


class Horovod:
    """`horovod.tensorflow`: its `init` records the cycle and starts a thread, like the real one."""

    def __init__(self):
        self._end = threading.Event()

    def is_initialized(self):
        return False

    def init(self):
        self.cycle = os.environ.get("HOROVOD_CYCLE_TIME")
        self._thread = threading.Thread(target=self._end.wait)
        self._thread.start()

    def end(self):
        """Ends the thread; returns its scheduling policy."""
        policy = os.sched_getscheduler(self._thread.native_id)
        self._end.set()
        self._thread.join()
        return policy


@pytest.mark.skipif(sys.platform != "linux", reason="threads of other systems stay as they are")
@pytest.mark.parametrize(
    ("gpus", "given", "cycle"), [(0, "3", "3"), (0, None, "10"), (2, "3", "3"), (2, None, None)]
)
def test_horovods_thread_steps_back_where_it_shares_a_core(monkeypatch, gpus, given, cycle):
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", given or "")
    if given is None:
        monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    horovod = Horovod()
    monkeypatch.setitem(sys.modules, "horovod", types.SimpleNamespace(tensorflow=horovod))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
    monkeypatch.setattr(launcher, "workers", lambda: 2)
    Machine(monkeypatch, gpus)
    distributed._horovod()
    assert horovod.end() == (os.SCHED_OTHER if gpus else os.SCHED_IDLE)
    assert horovod.cycle == cycle and os.sched_getscheduler(0) == os.SCHED_OTHER
