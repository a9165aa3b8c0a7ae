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
    machine = Machine(monkeypatch, gpus=gpus, workers=3, rank=2)
    message = f"GPU of its own; received 3 workers and {gpus} GPUs"
    with pytest.raises(ValueError, match=message):
        distributed.init()
    assert machine.told == []


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
