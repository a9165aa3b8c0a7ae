"""A worker that hangs is named, with the stack traces of all that can still give one."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests import workers
from tfadv import distributed, watchdog


@pytest.fixture
def ended(monkeypatch):
    """What the process would have said when it ended itself."""
    said, event, over = [], threading.Event(), threading.Event()

    def end(program, message):
        said.append(f"{program}: {message}")
        event.set()
        over.wait(20)  # as long as a process takes that has ended: there is nothing behind it

    monkeypatch.setattr(watchdog, "_end", end)
    monkeypatch.setattr(watchdog, "INTERVAL", 0.1)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: value)
    yield said, event
    over.set()


def test_who_hangs_is_named_with_traces(ended, tmp_path, monkeypatch):
    said, event = ended
    monkeypatch.setattr(watchdog.socket, "gethostname", lambda: "127.0.0.1")
    monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", raising=False)
    made = []
    create = socket.create_server
    monkeypatch.setattr(
        watchdog.socket, "create_server", lambda *args: made.append(create(*args)) or made[0]
    )
    monkeypatch.setattr(watchdog.os, "urandom", lambda count: b"t" * count)
    with watchdog.watch(1, tmp_path / "stalled.log", "train"):
        monkeypatch.setattr(distributed, "waits", lambda: True)
        # Worker 1 reports what it does but makes no progress; worker 2 was never heard of.
        with socket.create_connection(made[0].getsockname()) as connection:
            stream = connection.makefile("rw")
            report = {"token": (b"t" * 16).hex(), "rank": 1, "pid": 77, "host": "there"}
            start = time.monotonic()
            while not event.is_set() and time.monotonic() < start + 30:
                asked = {**report, "count": 4, "doing": "in step 5", "waits": False}
                watchdog._send(stream, asked)
                if watchdog._receive(stream)["traces"]:
                    watchdog._send(stream, {**report, "traces": "its traces"})
                time.sleep(0.1)
        assert event.wait(5)
    [line] = said
    assert line.startswith("train: no worker made progress for 1 s; hanging: worker 1 ")
    assert "(process 77 on there; in step 5), worker 2 (never heard of); stack" in line
    text = (tmp_path / "stalled.log").read_text()
    assert "worker 1:\nits traces" in text and "test_who_hangs_is_named_with_traces" in text


def test_progress_of_any_worker_counts(ended, tmp_path):
    said, _ = ended
    with watchdog.watch(1, tmp_path / "stalled.log", "train"):
        for count in range(30):
            watchdog.beat(f"step {count}")
            time.sleep(0.1)
    time.sleep(0.5)
    assert not said
    with watchdog.watch(0, tmp_path / "stalled.log", "train"):
        time.sleep(0.3)  # 0 is no watch
    assert not said and not any(t.name.startswith("_tell") for t in threading.enumerate())


def test_a_worker_that_cannot_reach_rank_0_says_so_and_trains_on(ended, monkeypatch, capsys):
    said, _ = ended
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()
    watchdog._tell(closed, "token", 0.3, "train", threading.Event())
    line = capsys.readouterr().err
    expected = r"tfadv.train: no watch over worker 1, which cannot reach 127.0.0.1:\d+: "
    assert re.match(expected, line)
    assert line.count("\n") == 1 and not said


def test_who_was_silent_is_known_afterwards(ended, tmp_path):
    watcher = watchdog._Watcher(None, "token", 60, tmp_path / "stalled.log", "train")
    now = time.monotonic()
    for rank, heard in ((0, now), (1, now - 7), (2, now - 0.1)):
        watcher._latest[rank] = {"pid": rank, "host": "there", "doing": "in step 5"}
        watcher._heard[rank] = heard
    assert watcher.silent() == ["worker 1 (process 1 on there; silent for 7 s)"]


def test_who_has_left_is_not_waited_for():
    watcher = watchdog._Watcher(None, "token", 60, "stalled.log", "train")
    assert watcher._work_is_left()  # of whom nothing is known may be at work
    watcher._latest[0] = {"works": True}
    assert watcher._work_is_left()
    watcher._latest[0] = {"works": False}
    assert not watcher._work_is_left()


def test_within_a_watch_there_is_no_other(ended, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: asked.append(value) or value)
    for _ in range(2):
        with watchdog.watch(5, tmp_path / "stalled.log", "train"):
            with watchdog.watch(5, tmp_path / "other.log"):
                pass
    assert len(asked) == 2


def test_others_hear_that_one_is_asked_to_stop(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog.socket, "gethostname", lambda: "127.0.0.1")
    monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", raising=False)
    asked, heard = [], threading.Event()
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: asked.append(value) or value)
    with watchdog.watch(60, tmp_path / "stalled.log", "train"):
        watchdog.when_stopping(heard.set)
        address, token = asked[0]
        with socket.create_connection(address) as connection:
            stream = connection.makefile("rw")
            report = {"token": token, "rank": 1, "pid": 77, "host": "there", "count": 4}
            for stopping in (False, True):
                watchdog._send(stream, {**report, "stopping": stopping})
                assert watchdog._receive(stream)["stopping"] == stopping
                assert heard.wait(5) == stopping or not stopping
        assert heard.is_set()


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


@pytest.mark.slow
def test_a_users_own_program_is_watched(tmp_path):
    script = tmp_path / "trains.py"
    script.write_text(TRAINS)
    command = [pathlib.Path(sys.executable).parent / "horovodrun", "-np", "2", "--gloo"]
    environment = {**os.environ, "PYTHONPATH": str(workers.ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment["TMPDIR"] = str(tmp_path)
    done = subprocess.run(
        [*command, sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode != 0
    line = r"tfadv: no worker made progress for 15 s; hanging: worker 1 \(.* in step 2 of an epoch"
    assert re.search(line, done.stderr + done.stdout)
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
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    command = [pathlib.Path(sys.executable).parent / "horovodrun", "-np", "3", "--gloo"]
    command += [sys.executable, script, str(who), how, tmp_path / "stalled.log"]
    environment = {**os.environ, "PYTHONPATH": str(workers.ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert re.search(line, done.stderr + done.stdout)
    if who:
        traces = (tmp_path / "stalled.log").read_text()
        assert "worker 0:\n" in traces and 'hangs.py", line 14' in traces  # where the others wait
        assert ("worker 1:\n" in traces and 'hangs.py", line 13' in traces) or how == "stop"
