"""Signals that arrive while the main thread is in a long operation outside of Python."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import workers

# Like an update, a key derivation is seconds of C code that never checks for Python's signals.
BUSY = r"""
import hashlib, importlib.util, os, signal, sys
# Loads only the file, since the package imports TensorFlow, which takes seconds.
spec = importlib.util.spec_from_file_location("signals", sys.argv[2])
spec.loader.exec_module(signals := importlib.util.module_from_spec(spec))

def heard(number):
    os.write(1, f"heard {number}\n".encode())

def handle(number, frame):
    os.write(1, f"handled {number}\n".encode())

listener = signals.Listener([signal.SIGTERM, signal.SIGINT], heard, handle)
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
print("done", flush=True)
"""


@pytest.fixture
def busy():
    processes = []

    def start(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(rounds), workers.ROOT / "tfadv" / "signals.py"],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # until it has left Python for C code
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_first_signal_is_heard_at_once_and_the_second_ends_the_process(busy):
    process = busy(10**9)  # minutes
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"heard {signal.SIGTERM.value}\n"
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGINT)  # a different signal counts as the second too
    assert process.wait(20) == -signal.SIGINT
    assert time.monotonic() - start < 10  # not the minutes of the operation, on a busy machine


def test_a_second_signal_that_comes_with_the_first_is_not_lost(busy):
    process = busy(10**9)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (-signal.SIGINT, -signal.SIGTERM)


def test_the_handler_runs_when_python_comes_to_it(busy):
    process = busy(10**7)  # seconds
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read().split("\n")[:3] == ["heard 15", "handled 15", "done"]
    assert process.wait(20) == 0


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_other_handlers_and_listeners_still_work_and_are_put_back(handlers):
    from tfadv import signals

    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    try:
        listener = signals.Listener([signal.SIGUSR2], pytest.fail, pytest.fail)
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        listener.close()
        listener = signals.Listener([signal.SIGUSR1], lambda number: None, lambda *_: None)
        signal.raise_signal(signal.SIGUSR1)
        listener.close()
        assert signal.getsignal(signal.SIGUSR1) == handlers[signal.SIGUSR1]
        # A signal of no concern to it is passed on to the previous listener.
        listener = signals.Listener([signal.SIGUSR1], pytest.fail, pytest.fail)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        signal.raise_signal(signal.SIGUSR2)
        assert os.read(reader, 1) == bytes([signal.SIGUSR2])
        listener.leave()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_listener_whose_work_has_ended_closes_itself(handlers, monkeypatch):
    from tfadv import signals

    monkeypatch.setattr(signals, "_INTERVAL", 0.02)
    ended, numbers = [], (signal.SIGUSR1, signal.SIGUSR2)
    signals.Listener(numbers, pytest.fail, pytest.fail, lambda: not ended)
    assert signal.getsignal(signal.SIGUSR1) != handlers[signal.SIGUSR1]
    # A handler that somebody installs in between stays.
    signal.signal(signal.SIGUSR2, mine := lambda *_: None)
    ended.append(True)
    wait_until(lambda: signal.getsignal(signal.SIGUSR1) == handlers[signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR2) is mine
    assert signal.set_wakeup_fd(-1) == -1


def test_a_listener_whose_work_has_ended_hears_nothing(handlers):
    from tfadv import signals

    seen, ended = [], []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("mine"))
    first = signals.Listener([signal.SIGUSR1], pytest.fail, pytest.fail, lambda: not ended)
    ended.append(True)
    signal.raise_signal(signal.SIGUSR1)
    time.sleep(0.1)
    signal.raise_signal(signal.SIGUSR1)  # would end the process after a signal that was heard
    assert seen == ["mine", "mine"]
    # The next listener does not depend on what the first one left.
    first = signals.Listener([signal.SIGUSR1], pytest.fail, pytest.fail, lambda: len(ended) > 1)
    second = signals.Listener([signal.SIGUSR1], lambda _: None, lambda *_: None)
    second.close()
    first.close()
    assert signal.set_wakeup_fd(-1) == -1
    signal.raise_signal(signal.SIGUSR1)
    assert seen == ["mine"] * 3
