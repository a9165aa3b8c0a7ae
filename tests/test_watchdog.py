"""The watchdog names a hanging worker, with the stack traces of all that can still give one."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests import strangers, workers
from tfadv import distributed, watchdog

NOTHING_NEW = {"traces": False, "stopping": False}  # rank 0's answer to most reports


class Job:
    """Three workers: this process, usually as rank 0, and connections of the test.

    When the process would end itself, `errors` gets its message, and `ended` is set.
    """

    def __init__(self):
        self.errors, self.ended, self.over = [], threading.Event(), threading.Event()
        self.shared = []  # what rank 0 sent to all for each watch: its address and the token
        self.connections = contextlib.ExitStack()

    def end(self, program, message):
        self.errors.append(f"{program}: {message}")
        self.ended.set()
        self.over.wait(20)  # the real function ends the process and never returns

    def share(self, value):
        self.shared.append(value)
        return value

    def connect(self, rank):
        address, token = self.shared[-1]
        connection = self.connections.enter_context(socket.create_connection(address))
        stream = self.connections.enter_context(connection.makefile("rw"))
        base = {"rank": rank, "pid": 77, "host": "there", "doing": "in step 5"}
        stream.write(f"{token}\n")

        def report(**state):
            watchdog._send(stream, {**base, "count": 4, "waits": False, **state})
            return watchdog._receive(stream)

        def trace(text):
            watchdog._send(stream, {**base, "traces": text})

        return report, trace


@pytest.fixture
def job(monkeypatch):
    job = Job()
    monkeypatch.setattr(watchdog, "_end", job.end)
    monkeypatch.setattr(watchdog, "INTERVAL", 0.1)
    monkeypatch.setattr(watchdog.socket, "gethostname", lambda: "127.0.0.1")
    monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", raising=False)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "local_size", lambda: 3)
    monkeypatch.setattr(distributed, "broadcast_object", job.share)
    with job.connections:
        yield job
    job.over.set()


def test_hanging_workers_are_named_with_traces(job, tmp_path, monkeypatch):
    with watchdog.watch(1, tmp_path / "stalled.log", "train"):
        monkeypatch.setattr(distributed, "waits", lambda: True)
        # Worker 1 reports but makes no progress; worker 2 never reports.
        report, trace = job.connect(1)
        start = time.monotonic()
        while not job.ended.is_set() and time.monotonic() < start + 30:
            if report()["traces"]:
                trace("its traces")
            time.sleep(0.1)
        assert job.ended.wait(5)
    [line] = job.errors
    assert line.startswith("train: no worker made progress for 1 s; hanging: worker 1 ")
    assert "(process 77 on there; in step 5), worker 2 (never heard of); stack" in line
    text = (tmp_path / "stalled.log").read_text()
    assert "worker 1:\nits traces" in text and "test_hanging_workers_are_named_with_traces" in text


def test_progress_of_any_worker_counts(job, tmp_path):
    with watchdog.watch(1, tmp_path / "stalled.log", "train"):
        for count in range(20):
            watchdog.beat(f"step {count}")
            time.sleep(0.1)
    time.sleep(0.5)
    with watchdog.watch(0, tmp_path / "stalled.log", "train"):  # 0 seconds: no watch
        pass
    assert not job.errors and len(job.shared) == 1


def test_a_job_whose_workers_have_all_finished_is_not_ended(job, tmp_path):
    finished = False
    with watchdog.watch(0.5, tmp_path / "stalled.log", "train", lambda: not finished):
        reports = [job.connect(rank)[0] for rank in (1, 2)]
        finished = True
        for report in reports:
            report(works=False)
        assert not job.ended.wait(1.5)
        reports[0](works=True)
        assert job.ended.wait(5)


def test_a_worker_that_cannot_reach_rank_0_says_so_and_trains_on(job, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: (closed, "token"))
    with watchdog.watch(0.3, "stalled.log", "train"):
        time.sleep(1)
    line = capsys.readouterr().err
    expected = r"tfadv.train: no watch over worker 1, which cannot reach 127.0.0.1:\d+: "
    assert re.match(expected, line)
    assert line.count("\n") == 1 and not job.errors


def test_rank_0_listens_where_the_others_reach_it(job, monkeypatch, tmp_path):
    def listens():
        with watchdog.watch(60, tmp_path / "stalled.log"):
            return job.shared[-1][0][0]

    assert listens() == "127.0.0.1"  # all workers run on this machine
    monkeypatch.setattr(distributed, "local_size", lambda: 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        own = probe.getsockname()[0]
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "192.0.2.1")
    assert listens() == own
    monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR")  # as under MPI
    monkeypatch.setattr(distributed, "gather_object", lambda value: [value, "192.0.2.1", value])
    assert listens() == own
    # A name that leads nowhere: all networks, so that the others find one.
    monkeypatch.setattr(distributed, "gather_object", lambda value: [value, "nowhere.invalid"])
    monkeypatch.setattr(watchdog.socket, "gethostname", lambda: "localhost")
    assert listens() == "localhost"


def test_strangers_change_nothing_but_a_line_of_the_log(job, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(watchdog, "_PATIENCE", 1.0)
    assert len(strangers.kinds("0" * 32, 1.0)) >= 100
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with watchdog.watch(60, tmp_path / "stalled.log", "train"):
        reports = [job.connect(rank)[0] for rank in (1, 2)]
        assert [report() for report in reports] == [NOTHING_NEW] * 2
        over, answered, newcomers = threading.Event(), [], []

        def work():  # the members go on, over the connections that they have
            while not over.wait(0.05):
                for report in reports:
                    start = time.monotonic()
                    assert report() == NOTHING_NEW
                    answered.append(time.monotonic() - start)
                # A worker may also come back after an interruption, and tries until it succeeds.
                start = time.monotonic()
                while len(answered) % 20 == 0:
                    with contextlib.suppress(OSError):
                        reports[1] = job.connect(2)[0]
                        assert reports[1]() == NOTHING_NEW
                        newcomers.append(time.monotonic() - start)
                        break

        member = threading.Thread(target=work)
        member.start()
        address, token = job.shared[-1]
        errors = strangers.send_all(address, token, patience=10)
        over.set()
        member.join()
        assert errors == []
        # Far below the minutes after which a worker is given up, on busy cores too.
        assert len(answered) > 20 and max(answered) < 10, answered
        assert newcomers and max(newcomers) < 10, newcomers
        assert len(os.listdir("/proc/self/fd")) < files + 60
    assert watchdog.silent() == [] and not job.errors
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"tfadv\.train: refused a connection from 127\.0\.0\.1 that is not a worker's; .*\n", line
    )
    # The test's own connections stay open until its end.
    job.connections.close()

    def left():
        return len(os.listdir("/proc/self/fd")) > files or threading.active_count() > threads

    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left()


def test_silent_workers_are_named_after_the_watch(job, tmp_path):
    with watchdog.watch(60, tmp_path / "stalled.log", "train"):
        early, late = job.connect(1)[0], job.connect(2)[0]
        early()
        time.sleep(1)
        late()
    [name] = watchdog.silent()
    assert re.fullmatch(r"worker 1 \(process 77 on there; silent for \d+ s\)", name)


def test_a_watch_within_a_watch_does_nothing(job, tmp_path):
    for _ in range(2):
        with watchdog.watch(5, tmp_path / "stalled.log", "train"):
            with watchdog.watch(5, tmp_path / "other.log"):
                pass
    assert len(job.shared) == 2


def test_workers_are_told_that_another_one_is_asked_to_stop(job, tmp_path):
    stopping = threading.Event()
    with watchdog.watch(60, tmp_path / "stalled.log", "train"):
        watchdog.when_stopping(stopping.set)
        report, _ = job.connect(1)
        assert not report(stopping=False)["stopping"] and not stopping.is_set()
        assert report(stopping=True)["stopping"]
        assert stopping.wait(5)


HANGS = """
import os, signal, sys, time
from tfadv import distributed, watchdog
distributed.init()
who, how = int(sys.argv[1]), sys.argv[2]
with watchdog.watch(5, sys.argv[3], "train"):
    for step in range(20):
        watchdog.beat(f"step {step}")
        time.sleep(0.2)
        if step == 3 and distributed.rank() == who:
            if how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
        distributed.total([1])
"""


TRAINS = """
import sys, time
import keras, numpy as np, tfadv
tfadv.distributed.init()
model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

def hang(batch, logs=None):
    if tfadv.distributed.rank() == 1 and batch == 1:
        time.sleep(600)

model.fit(
    np.zeros((16, 2, 2, 3)),
    np.zeros(16, int),
    batch_size=4,
    callbacks=[
        tfadv.callbacks.AdversarialTraining(
            tfadv.attacks.PGD(num_steps=1), value_range=(0, 1), stall_seconds=15
        ),
        keras.callbacks.LambdaCallback(on_train_batch_begin=hang),
    ],
)
"""


def failing_run(folder, count, name, program, *arguments, **environment):
    """Runs a program that must fail on real workers; returns what they printed."""
    (folder / name).write_text(program)
    command = [pathlib.Path(sys.executable).parent / "horovodrun", "-np", str(count), "--gloo"]
    environment |= {"PYTHONPATH": str(workers.ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.run(
        [*command, sys.executable, folder / name, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode != 0
    return process.stderr + process.stdout


@pytest.mark.slow
def test_a_users_own_program_is_watched(tmp_path):
    output = failing_run(tmp_path, 2, "trains.py", TRAINS, TMPDIR=str(tmp_path))
    line = r"tfadv: no worker made progress for 15 s; hanging: worker 1 \(.* in step 2 of an epoch"
    assert re.search(line, output)
    [traces] = tmp_path.glob("tfadv-stalled-*.log")
    assert "trains.py" in traces.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "who, how, line",
    [
        (1, "sleep", r"hanging: worker 1 \(process \d+ on .*; step 3\); stack traces: "),
        (2, "stop", r"hanging: worker 2 \(process \d+ on .*; silent for \d+ s\); stack traces: "),
        (0, "stop", r"worker 0 did not answer for 5 s"),
    ],
)
def test_real_workers_that_hang(tmp_path, who, how, line):
    output = failing_run(tmp_path, 3, "hangs.py", HANGS, str(who), how, tmp_path / "stalled.log")
    assert re.search(line, output)
    if who:
        traces = (tmp_path / "stalled.log").read_text()
        assert "worker 0:\n" in traces and 'hangs.py", line 14' in traces  # where the others wait
        assert ("worker 1:\n" in traces and 'hangs.py", line 13' in traces) or how == "stop"
