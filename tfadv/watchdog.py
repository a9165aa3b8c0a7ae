"""Aborts a job of several workers when one of them hangs, and names it.

In a collective operation a worker that never arrives holds up all others, forever: Horovod's own
stall check does nothing where the workers talk through Gloo. So each worker tells rank 0 what it is
doing, over a connection that needs no other worker's cooperation.
"""

import collections
import contextlib
import faulthandler
import hmac
import json
import os
import pathlib
import queue
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from tfadv import distributed, launcher

INTERVAL = 1.0  # seconds between two reports of a worker
_SILENT = 5  # intervals without a report, after which a worker counts as silent

# Anyone who reaches rank 0 on the network can connect to it. These numbers bound what all strangers
# together can take of its time and memory.
_PATIENCE = 10.0  # seconds until a connection must have sent the token and a report
_STRANGERS = 32  # how many connections may have sent none yet; another one replaces the oldest
_ARRIVALS = 16  # how many connections are accepted in a turn
_TURN = 0.01  # seconds between two turns
_PIECE = 1 << 16  # bytes read from a connection in a turn
_LINE = 1 << 20  # bytes of a line, which may hold the stack traces of all threads of a worker


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
    hosts = distributed.gather_object(socket.gethostname())
    server = token = address = None
    if distributed.rank() == 0:
        own = _own_address(hosts)
        server = socket.create_server((own, 0))
        token = os.urandom(16).hex()
        address = (own or socket.gethostname(), server.getsockname()[1])
    address, token = distributed.broadcast_object((address, token))
    if server is not None:
        address = server.getsockname()  # the machine's own name may not lead to itself
    ended = threading.Event()
    _activity.watched, _activity.lasts, _activity.stopping = True, lasts, False
    threads = [threading.Thread(target=_tell, args=(address, token, seconds, program, ended))]
    if server is not None:
        watcher = _Watcher(seconds, pathlib.Path(path), program)
        listener = _Server(server, token, watcher.hear, program)
        threads.append(threading.Thread(target=watcher.watch, args=(ended,)))
        threads.append(threading.Thread(target=listener.serve, args=(ended,)))
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


def _own_address(hosts):
    """The address at which the workers, on machines of these names, reach this one.

    It belongs to the network of the launcher. Where that is unknown, as under MPI, it belongs to
    the network of another machine. It is empty, for all networks, if no name leads to any.
    """
    if distributed.local_size() == distributed.size():
        return "127.0.0.1"
    others = [host for host in hosts if host != socket.gethostname()]
    target = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR") or (others or hosts)[0]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))  # sends nothing; chooses the interface
        own = probe.getsockname()[0]
        if not own.startswith("127."):
            return own
    return ""


def _tell(address, token, seconds, program, ended):
    """Reports to rank 0 until the watch ends; ends this process if rank 0 does not answer."""
    me = {"rank": distributed.rank(), "pid": os.getpid(), "host": socket.gethostname()}
    began, answered = time.monotonic(), None
    while True:
        try:
            with socket.create_connection(address, timeout=seconds) as connection:
                connection.settimeout(max(seconds, _SILENT * INTERVAL))
                stream = connection.makefile("rw", encoding="utf-8")
                stream.write(f"{token}\n")  # goes out with the first report
                while not ended.is_set():
                    _send(stream, {**me, **_activity.report()})
                    answer = _receive(stream)
                    if answer.get("traces"):
                        # JSON takes up to 6 bytes for a character.
                        _send(stream, {**me, "traces": _stack_traces()[: _LINE // 8]})
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


class _Connection:
    """A connection to rank 0: a stranger's until its first report, then that of a worker."""

    def __init__(self, accepted, address):
        self.socket = accepted
        self.address = address
        self.until = time.monotonic() + _PATIENCE
        self.knows_token = False
        self.rank = None  # that of the first report
        self.received = bytearray()  # the beginning of a line


class _Server:
    """Rank 0's end of the connections: hands on what workers report, and refuses strangers."""

    def __init__(self, server, token, heard, program):
        self._server = server
        self._token = f"{token}\n".encode()
        self._heard = heard  # function of a report that returns the answer, or None
        self._program = program
        self._strangers = collections.deque()  # the oldest first
        self._workers = {}  # rank -> its connection
        self._selector = selectors.DefaultSelector()
        self._refused = False

    def serve(self, ended):
        """Serves until the watch ends."""
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        with self._server, self._selector:
            while not ended.wait(_TURN):
                for key, _ in self._selector.select(timeout=INTERVAL / 2):
                    if key.data is None:
                        self._accept()
                    elif key.fileobj.fileno() >= 0:  # not closed earlier in this turn
                        self._read(key.data)
                while self._strangers and self._strangers[0].until < time.monotonic():
                    self._refuse(self._strangers[0])
            for connection in (*self._strangers, *self._workers.values()):
                connection.socket.close()

    def _accept(self):
        for _ in range(_ARRIVALS):
            try:
                accepted, (address, _) = self._server.accept()
            except OSError:  # there are no more, or too many files are open
                return
            accepted.setblocking(False)
            connection = _Connection(accepted, address)
            self._selector.register(accepted, selectors.EVENT_READ, connection)
            self._strangers.append(connection)
            if len(self._strangers) > _STRANGERS:
                self._refuse(self._strangers[0])

    def _read(self, connection):
        most = _PIECE
        if not connection.knows_token:
            most = len(self._token) - len(connection.received)
        try:
            data = connection.socket.recv(most)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.received += data
        if not data:
            self._close(connection)
        elif connection.knows_token or self._check_token(connection):
            try:
                self._take_lines(connection)
            # No JSON, no report, a line that is too long, or no room for the answer.
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                self._refuse(connection)

    def _check_token(self, connection):
        if len(connection.received) < len(self._token):
            return False
        connection.knows_token = hmac.compare_digest(connection.received, self._token)
        connection.received.clear()
        if not connection.knows_token:
            self._refuse(connection)
        return connection.knows_token

    def _take_lines(self, connection):
        *lines, rest = connection.received.split(b"\n")
        if len(rest) > _LINE:
            raise ValueError("the line is too long")
        connection.received = rest
        for line in lines:
            report = json.loads(line)
            answer = self._heard(report)
            if connection.rank is None:
                self._admit(connection, report["rank"])
            if answer is not None:
                text = f"{json.dumps(answer)}\n".encode()
                if connection.socket.send(text) < len(text):
                    raise OSError("the worker does not read its answers")

    def _admit(self, connection, rank):
        if rank in self._workers:  # it lost that connection
            self._close(self._workers[rank])
        connection.rank = rank
        self._workers[rank] = connection
        self._strangers.remove(connection)

    def _refuse(self, connection):
        self._close(connection)
        if not self._refused:
            self._refused = True
            _say(
                self._program,
                f"refused a connection from {connection.address} that is not a worker's; "
                "there is no message about others like it",
            )

    def _close(self, connection):
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection.rank is None:
            self._strangers.remove(connection)
        else:
            del self._workers[connection.rank]


class _Watcher:
    """Rank 0's part: collects the workers' reports, and ends the job if all are stuck."""

    def __init__(self, seconds, path, program):
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

    def hear(self, report):
        """Takes a worker's report or stack traces; returns the answer to a report."""
        rank = report["rank"]
        if rank not in range(distributed.size()):
            raise ValueError(f"there is no worker {rank}")
        if "traces" in report:
            self._traces.put((rank, report["traces"]))
            return None
        if report["count"] != self._latest.get(rank, {}).get("count"):
            self._progress = time.monotonic()
        self._latest[rank], self._heard[rank] = report, time.monotonic()
        self._stopping |= report.get("stopping", False)
        return {"traces": self._traces_wanted.is_set(), "stopping": self._stopping}

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
