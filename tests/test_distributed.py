"""What holds in a single process, and how a worker takes its share of a machine."""

import os
import sys
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

from tfadv import distributed, launcher


@pytest.fixture(autouse=True)
def single(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("HOROVOD_", "OMPI_", "PMI_")):
            monkeypatch.delenv(name)


def test_single_process_is_rank_0_of_1():
    assert (distributed.size(), distributed.rank()) == (1, 0)
    assert (distributed.local_size(), distributed.local_rank()) == (1, 0)


def test_single_process_leaves_values_alone():
    tensors = [tf.constant([1.0, 2.0]), tf.constant(3.0, tf.float16)]
    means = distributed.mean(tensors, "name")
    assert all(a is b for a, b in zip(means, tensors, strict=True)) and means is not tensors
    totals = distributed.total([[1, 2], [3, 2**53]])
    assert totals.dtype == np.float64 and totals.tolist() == [[1, 2], [3, 2**53]]
    value = object()
    assert distributed.broadcast_object(value) is value
    assert distributed.gather_object(value) == [value]
    variable = tf.Variable(4.0)
    distributed.broadcast([variable])
    assert variable.numpy() == 4.0


def test_workers_are_named_by_what_they_have():
    assert distributed.by_worker([4, 2]) == "4 on worker 0 and 2 on worker 1"
    listed = distributed.by_worker([0.1, None, 0.1, 0.1])
    assert listed == "0.1 on workers 0, 2 and 3 and None on worker 1"
    assert distributed.named([1, 3]) == "workers 1 and 3"


def test_single_process_imports_no_horovod():
    # The whole test run may have it, and so this asks about what those calls import.
    before = {name for name in sys.modules if name.split(".")[0] == "horovod"}
    distributed.init()
    test_single_process_is_rank_0_of_1()
    test_single_process_leaves_values_alone()
    assert {name for name in sys.modules if name.split(".")[0] == "horovod"} == before


@pytest.mark.parametrize("launcher", ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_several_workers_need_horovod(monkeypatch, launcher):
    monkeypatch.setenv(launcher, "3")
    monkeypatch.setitem(sys.modules, "horovod", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "horovod.tensorflow", raising=False)
    with pytest.raises(ImportError, match="Horovod must be installed to run 3 workers: tools/"):
        distributed.size()
    monkeypatch.setenv(launcher, "1")
    assert distributed.size() == 1


class Machine:
    """`tf.config` of a worker on a machine with GPUs and cores; notes what it is told."""

    def __init__(self, monkeypatch, gpus, workers=1, rank=0, cores=8):
        self.told = []
        devices = [
            tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(gpus)
        ]
        patch = monkeypatch.setattr
        patch(distributed, "local_size", lambda: workers)
        patch(distributed, "local_rank", lambda: rank)
        patch(tf.config, "list_physical_devices", lambda kind=None: devices)
        patch(tf.config, "set_visible_devices", self._note("visible"))
        patch(tf.config.experimental, "set_memory_growth", self._note("growth"))
        patch(tf.config.threading, "set_intra_op_parallelism_threads", self._note("intra"))
        patch(tf.config.threading, "set_inter_op_parallelism_threads", self._note("inter"))
        patch(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    def _note(self, what):
        return lambda value, *rest: self.told.append((what, getattr(value, "name", value), *rest))


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
        (1, 4, 3, 0),  # CUDA_VISIBLE_DEVICES shows each worker its own alone
        (4, 1, 0, 0),  # one process takes one
    ],
)
def test_each_local_rank_takes_one_gpu_with_memory_growth(monkeypatch, gpus, workers, rank, mine):
    machine = Machine(monkeypatch, gpus, workers, rank)
    if gpus < workers:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(rank))
    distributed.init()
    assert machine.told == gpu(mine)


@pytest.mark.parametrize("gpus", [1, 2])
def test_fewer_gpus_than_workers_is_an_error(monkeypatch, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    Machine(monkeypatch, gpus=gpus, workers=3, rank=2)
    message = f"GPU of its own; received 3 workers and {gpus} GPUs on "
    with pytest.raises(ValueError, match=message):
        distributed.init()


def seat(machine="a", gpus=1, bus_id=None, narrowed=True, workers=2):
    return distributed._Seat(machine, f"host-{machine}", workers, gpus, bus_id, narrowed)


def test_workers_that_see_one_gpu_each_may_not_see_the_same():
    # As with CUDA_VISIBLE_DEVICES=0 in a shell that then starts two workers.
    shared = [seat(bus_id="0000:3B:00.0"), seat(bus_id="0000:3B:00.0")]
    message = (
        r"^each worker needs a GPU of its own; workers 0 and 1 on host-a would share GPU "
        r"0000:3B:00\.0 \(its 2 workers see 1 GPU\(s\) each: start fewer, or look at "
        r"CUDA_VISIBLE_DEVICES\)$"
    )
    with pytest.raises(ValueError, match=message):
        distributed._check_gpus(shared)


def test_equal_bus_numbers_on_two_machines_are_two_gpus():
    distributed._check_gpus([seat("a", bus_id="0000:3B:00.0"), seat("b", bus_id="0000:3B:00.0")])


def test_workers_that_slurm_gives_two_gpus_each_may_be_more_than_two():
    # Four tasks with --gpus-per-task=2, each of which takes one of its own two.
    ids = ("0000:3B:00.0", "0000:AF:00.0", "0000:D8:00.0", "0000:18:00.0")
    distributed._check_gpus([seat(gpus=2, bus_id=i, narrowed=False, workers=4) for i in ids])


def test_a_machine_without_its_gpus_is_named():
    # As after a driver's failure: 8 workers on GPUs would wait for 8 on cores.
    seats = [seat("a", bus_id="0"), seat("a", bus_id="1"), seat("b", gpus=0), seat("b", gpus=0)]
    message = (
        r"^either all workers or none must have a GPU; received none for worker\(s\) 2, 3 "
        r"\(the first on host-b\)$"
    )
    with pytest.raises(ValueError, match=message):
        distributed._check_gpus(seats)
    distributed._check_gpus(seats[2:])


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
    assert machine.told == [("intra", threads[0]), ("inter", threads[1])]


def test_single_worker_and_explicit_threads_are_left_alone(monkeypatch):
    machine = Machine(monkeypatch, gpus=0)
    distributed.init()
    machine = Machine(monkeypatch, gpus=0, workers=2)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    distributed.init()
    assert machine.told == []


def test_threads_of_a_running_tensorflow_stay(monkeypatch):
    Machine(monkeypatch, gpus=0, workers=2)

    def running(_):
        raise RuntimeError("Intra op parallelism cannot be modified after initialization.")

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", running)
    distributed.init()


class Horovod:
    """`horovod.tensorflow`, whose `init` notes the cycle and starts a thread, as the real one."""

    def __init__(self, monkeypatch):
        self.cycle = self.thread = None
        self._end = threading.Event()
        monkeypatch.setitem(sys.modules, "horovod", types.SimpleNamespace(tensorflow=self))
        monkeypatch.setitem(sys.modules, "horovod.tensorflow", self)
        monkeypatch.setattr(launcher, "workers", lambda: 2)

    def is_initialized(self):
        return False

    def init(self):
        self.cycle = os.environ.get("HOROVOD_CYCLE_TIME")
        self.thread = threading.Thread(target=self._end.wait)
        self.thread.start()

    def end(self):
        self._end.set()
        self.thread.join()


@pytest.mark.parametrize(
    ("gpus", "given", "taken"), [(0, "3", "3"), (0, None, "10"), (2, "3", "3"), (2, None, None)]
)
def test_horovods_thread_asks_seldom_where_it_shares_a_core(monkeypatch, gpus, given, taken):
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "")  # is put back as it was
    monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    if given:
        monkeypatch.setenv("HOROVOD_CYCLE_TIME", given)
    horovod = Horovod(monkeypatch)
    Machine(monkeypatch, gpus)
    distributed._horovod()
    horovod.end()
    assert horovod.cycle == taken


@pytest.mark.skipif(sys.platform != "linux", reason="threads of other systems stay as they are")
@pytest.mark.parametrize("gpus", [0, 2])
def test_horovods_thread_steps_back_where_it_shares_a_core(monkeypatch, gpus):
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "10")
    horovod = Horovod(monkeypatch)
    Machine(monkeypatch, gpus)
    distributed._horovod()
    found = os.sched_getscheduler(horovod.thread.native_id)
    horovod.end()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert found == (os.SCHED_OTHER if gpus else os.SCHED_IDLE)
