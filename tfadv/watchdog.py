"""Aborts a job of several workers when one of them hangs, and names it.

In a collective operation a worker that never arrives holds up all others, forever: Horovod's own
stall check does nothing where the workers talk through Gloo. So each worker tells rank 0 what it is
doing, over a connection that needs no other worker's cooperation.
"""

import contextlib
import faulthandler
import json
import os
import pathlib
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from tfadv import distributed, launcher

INTERVAL = 1.0  # seconds between two reports of a worker
_SILENT = 5  # intervals without a report, after which a worker counts as silent


class _Activity:
    """The last reported activity of this worker's main thread, and functions to ask for more."""

    def __init__(self):
        self.count = 0
        self.doing = "starting"
        self.waiting = None  # function: whether the worker waits for others, inside a graph
        self.watched = False
        self.lasts = None  # function: whether the watched work still runs
        self.stopping = False  # whether this or another worker was asked to stop
        self.on_stop = None  # function that is told of another worker's stopping
        self.silent = []  # names of silent workers at the end of rank 0's last watch

    def report(self):
        waits = distributed.waits() or bool(self.waiting and self.waiting())
        state = {"waits": waits, "works": self.works(), "stopping": self.stopping}
        return {"count": self.count, "doing": self.doing, **state}

    def works(self):
        return self.lasts is None or self.lasts()

    def another_stops(self):
        if not self.stopping and self.on_stop is not None:
            self.stopping = True
            self.on_stop()


_activity = _Activity()


def beat(doing: str) -> None:
    """Says what this worker does from now on, such as `"update 12"`. Each call is progress."""
    _activity.count += 1
    _activity.doing = doing


def waits_when(function: Callable[[], bool]) -> None:
    """Sets a function that says whether this worker waits for others, inside a graph."""
    _activity.waiting = function


def spread_stop() -> None:
    """Tells the other workers, within seconds, that this one is asked to stop, if watched."""
    _activity.stopping = True


def when_stopping(function: Callable[[], None]) -> None:
    """Sets a function to be called, in another thread, once another worker is asked to stop."""
    _activity.stopping, _activity.on_stop = False, function


def silent() -> list[str]:
    """Names of the workers that had been silent for some seconds when rank 0's watch ended."""
    return list(_activity.silent)


@contextlib.contextmanager
def watch(
    seconds: float,
    path: str | os.PathLike,
    program: str | None = None,
    lasts: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Watches the workers for as long as the context lasts; a watch within a watch does nothing.

    If no worker makes progress for too long, rank 0 writes the stack traces of all workers that can
    still give one to a file, names the workers that the others wait for in one line, and ends with
    status 1, so that the launcher ends the job. If rank 0 itself does not answer any more, not even
    from its other threads, every worker says so and ends. A worker that never reached rank 0 says
    that it is not watched, and goes on.

    Args:
        seconds: How long is too long: more than the longest step, with its compilation. 0 for no
            watch. A single worker is never watched.
        path: Path of the file of stack traces, on rank 0.
        program: Name of the program, for messages; None for the library itself.
        lasts: Function that says whether this worker still does what is watched; None if it does
            until the context ends.
    """
    if not seconds or distributed.size() == 1 or _activity.watched:
        yield
        return
    # Anyone on the network can connect to rank 0, but without the token is not listened to.
    server = token = address = None
    if distributed.rank() == 0:
        server = socket.create_server(("", 0))
        token = os.urandom(16).hex()
        address = (_own_address(), server.getsockname()[1])
    address, token = distributed.broadcast_object((address, token))
    ended = threading.Event()
    _activity.watched, _activity.lasts, _activity.stopping = True, lasts, False
    threads = [threading.Thread(target=_tell, args=(address, token, seconds, program, ended))]
    if server is not None:
        watcher = _Watcher(server, token, seconds, pathlib.Path(path), program)
        threads.append(threading.Thread(target=watcher.watch, args=(ended,)))
    for thread in threads:
        thread.daemon = True
        thread.start()
    try:
        yield
    finally:
        ended.set()
        _activity.watched = False
        _activity.lasts = _activity.waiting = _activity.on_stop = None
        if server is not None:
            _activity.silent = watcher.silent()
            server.close()


def _own_address():
    """The address at which workers on other machines reach this one, as the launcher does it."""
    given = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if not given:
        return socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((given, 9))  # sends nothing; chooses the interface
        return probe.getsockname()[0]


def _tell(address, token, seconds, program, ended):
    """Reports to rank 0 until the watch ends; ends this process if rank 0 does not answer."""
    me = {"token": token, "rank": distributed.rank(), "pid": os.getpid()}
    me["host"] = socket.gethostname()
    if me["rank"] == 0:
        address = ("localhost", address[1])  # the machine's own name may not lead to itself
    began, answered = time.monotonic(), None
    while True:
        try:
            with socket.create_connection(address, timeout=seconds) as connection:
                connection.settimeout(max(seconds, _SILENT * INTERVAL))
                stream = connection.makefile("rw", encoding="utf-8")
                while not ended.is_set():
                    _send(stream, {**me, **_activity.report()})
                    answer = _receive(stream)
                    if answer.get("traces"):
                        _send(stream, {**me, "traces": _stack_traces()})
                    if answer.get("stopping"):
                        _activity.another_stops()
                    answered = time.monotonic()
                    ended.wait(INTERVAL)
        except (OSError, ValueError) as error:
            silence = time.monotonic() - (answered or began)
            if not ended.is_set() and me["rank"] and silence > seconds and _activity.works():
                if answered is not None:
                    _end(program, f"worker 0 did not answer for {seconds:g} s")
                # This may be a firewall, so training goes on.
                _say(
                    program,
                    f"no watch over worker {me['rank']}, which cannot reach "
                    f"{address[0]}:{address[1]}: {error}",
                )
                return
        if ended.wait(INTERVAL):
            return


class _Watcher:
    """Rank 0's part: collects the workers' reports, and ends the job if all are stuck."""

    def __init__(self, server, token, seconds, path, program):
        self._server = server
        self._token = token
        self._seconds = seconds
        self._path = path
        self._program = program
        self._latest = {}  # rank -> its last report
        self._heard = {}  # rank -> when that came
        self._progress = time.monotonic()  # when any worker last made progress
        self._traces = queue.Queue()
        self._traces_wanted = threading.Event()
        self._stopping = False

    def watch(self, ended):
        threading.Thread(target=self._accept, daemon=True).start()
        while not ended.wait(INTERVAL):
            if time.monotonic() - self._progress > self._seconds and self._work_is_left():
                self._conclude()

    def _work_is_left(self):
        # A worker that was never heard of may be at work.
        reports = [self._latest.get(rank, {}) for rank in range(distributed.size())]
        return any(report.get("works", True) for report in reports)

    def silent(self):
        return [self._name(rank) for rank in sorted(self._heard) if self._is_silent(rank)]

    def _is_silent(self, rank):
        return self._silence(rank) > _SILENT * INTERVAL

    def _silence(self, rank):
        return time.monotonic() - self._heard[rank]

    def _accept(self):
        with contextlib.suppress(OSError):  # the server is closed when the watch ends
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection):
        with contextlib.suppress(OSError, ValueError, KeyError), connection:
            stream = connection.makefile("rw", encoding="utf-8")
            while True:
                report = _receive(stream)
                if report["token"] != self._token:
                    return
                rank = report["rank"]
                if "traces" in report:
                    self._traces.put((rank, report["traces"]))
                    continue
                if report["count"] != self._latest.get(rank, {}).get("count"):
                    self._progress = time.monotonic()
                self._latest[rank], self._heard[rank] = report, time.monotonic()
                self._stopping |= report.get("stopping", False)
                answer = {"traces": self._traces_wanted.is_set(), "stopping": self._stopping}
                _send(stream, answer)

    def _conclude(self):
        self._traces_wanted.set()
        size, traces = distributed.size(), {}
        deadline = time.monotonic() + _SILENT * INTERVAL
        with contextlib.suppress(queue.Empty):
            while len(traces) < size:
                rank, text = self._traces.get(timeout=max(0.0, deadline - time.monotonic()))
                traces[rank] = text
        hanging = [r for r in range(size) if r not in traces or not self._latest[r]["waits"]]
        names = ", ".join(map(self._name, hanging)) or "none by itself: all wait for each other"
        with contextlib.suppress(OSError):
            parts = [f"worker {rank}:\n{traces[rank]}" for rank in sorted(traces)]
            self._path.write_text("\n".join(parts), encoding="utf-8")
        _end(
            self._program,
            f"no worker made progress for {self._seconds:g} s; hanging: {names}; stack traces: "
            f"{self._path}",
        )

    def _name(self, rank):
        latest = self._latest.get(rank)
        if latest is None:
            return f"worker {rank} (never heard of)"
        state = latest["doing"]
        if self._is_silent(rank):
            state = f"silent for {self._silence(rank):.0f} s"
        return f"worker {rank} (process {latest['pid']} on {latest['host']}; {state})"


def _stack_traces():
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _send(stream, message):
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _receive(stream):
    line = stream.readline()
    if not line:
        raise OSError("the connection has ended")
    return json.loads(line)


def _say(program, message):
    name = "tfadv" if program is None else f"tfadv.{program}"
    print(f"{name}: {message}", file=sys.stderr, flush=True)


def _end(program, message):
    launcher.report_status(1)
    _say(program, message)
    os._exit(1)  # an exception would wait for the main thread, which hangs
