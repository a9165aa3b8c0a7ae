"""Runs horovodrun for tools/run_horovod.py: sorts its output, passes signals on, restarts it."""

import contextlib
import ctypes
import glob
import itertools
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# How horovodrun, or mpirun for it, marks a worker's output: [0]<stdout>: or [1,0]<stdout>:
MARK = re.compile(rb"\[(?:\d+,)?(\d+)\]<(?:stdout|stderr)>:")
# What horovodrun prints about its workers on stdout, even after a worker's unfinished line.
LAUNCHER = re.compile(rb"(Process \d+ exit with status code|Terminating remaining workers).*\n?$")
# What horovodrun's shell prints about a worker that was ended.
SHELL = (b"Terminated", b"Killed")
# What Horovod logs about an error in its thread, or as a warning, with a path of the machine that
# built it.
HOROVOD = re.compile(rb"\[[-\d]+ [ :.\d]+: ([WEF]) \S*horovod/\S+:\d+\] (.*)", re.DOTALL)
# Lines that TensorFlow logs, with times and numbers of processes.
LOG = re.compile(
    rb"[IWEF]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:|WARNING: All log messages before"
)
# Which worker ended first, in what horovodrun or mpirun prints when it fails.
FIRST = re.compile(r"Process name: (?:\[\[\d+,\d+\],)?(\d+)\]?\s+Exit code: +(-?\d+)")
ENDED = re.compile(r"Process (\d+) exit with status code (-?\d+)")
SIGNALLED = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)")
# A worker prints this when it ended because another one did.
FOLLOWED = b"stopped, since another one ended"

USERS_MISTAKE = 2
RESUME = 75  # a training was stopped after a checkpoint
LOST = 255  # of ssh, when it loses a machine, such as a preempted one, or a signal ends the worker
NO_ERROR = (RESUME, LOST)  # statuses that are no error of the program


@dataclass
class Messages:
    """Output of one run of horovodrun that is kept back and not shown at once."""

    launcher: list[bytes] = field(default_factory=list)  # by horovodrun and its shell
    horovod: list[bytes] = field(default_factory=list)  # by Horovod, about its errors
    errors: dict[int, bytes] = field(default_factory=dict)  # rank -> its last line on stderr
    machines: list[str] = field(default_factory=list)  # of each rank; empty if all are on this one

    @property
    def text(self) -> str:
        """The output of horovodrun and its shell."""
        return b"".join(self.launcher).decode(errors="replace")

    @property
    def first(self) -> tuple[int, int] | None:
        """Rank and status of the worker that ended first, if one failed."""
        match = FIRST.search(self.text)
        if match:
            return int(match[1]), int(match[2])
        match = SIGNALLED.search(self.text)
        return (int(match[1]), 128 + int(match[2])) if match else None

    @property
    def cause(self) -> int | None:
        """Status of the first worker that did not end because of another one, if one failed."""
        ended = (map(int, numbers) for numbers in ENDED.findall(self.text))
        own = (code for rank, code in ended if FOLLOWED not in self.errors.get(rank, b""))
        return next(own, None)


class Output:
    """Passes one stream of horovodrun on to one of ours.

    Rank 0's output loses its mark, so that a progress bar (carriage returns and all) looks as it
    does in one process. Lines of other workers keep theirs as "[1] ". What horovodrun and Horovod
    print themselves is kept in `messages`. A raw stream is shown as it comes, and kept all the
    same.

    mpirun marks every piece that a worker writes, also within a line, where a piece of another
    worker may follow; the pieces of each worker are put together to its lines.
    """

    def __init__(self, target, messages: Messages, raw: bool, ends: bytes, stderr: bool = False):
        self.target, self.messages, self.raw, self.stderr = target, messages, raw, stderr
        self.records = re.compile(rb"[^%b]*[%b]" % (ends, ends))
        self.pending = b""
        self.pieces: dict[int, bytes] = {}  # rank -> the beginning of its line, from mpirun

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream; b"" at its end."""
        if self.raw:
            self.show(data)
        self.pending += data
        end = 0
        shown = b""
        for match in self.records.finditer(self.pending):
            shown += self.convert(match.group())
            end = match.end()
        self.pending = self.pending[end:]
        if not data and self.pending:
            shown += self.convert(self.pending)
            self.pending = b""
        if not data:
            shown += b"".join(self.line(rank, text) for rank, text in self.pieces.items() if text)
            self.pieces = {}
        if not self.raw:
            self.show(shown)

    def convert(self, record: bytes) -> bytes:
        # A raw record may begin with a time.
        mark = MARK.search(record) if self.raw else MARK.match(record)
        if mark is None:
            self.messages.launcher.append(record)
            return b""
        if b"," not in mark[0]:
            return self.line(int(mark[1]), record[mark.end() :])
        _, *parts = MARK.split(record[mark.start() :])
        *pieces, (rank, end) = zip(map(int, parts[::2]), parts[1::2], strict=True)
        for number, piece in pieces:
            self.pieces[number] = self.pieces.get(number, b"") + piece
        return self.line(rank, self.pieces.pop(rank, b"") + end)

    def line(self, rank: int, text: bytes) -> bytes:
        """Returns what is shown of a worker's line, or b"" for what is kept back."""
        launcher = LAUNCHER.search(text)
        if launcher:
            self.messages.launcher.append(launcher.group())
            text = text[: launcher.start()]
        if text.strip() in SHELL:
            self.messages.launcher.append(text)
            return b""
        horovod = HOROVOD.match(text)
        if horovod and horovod[1] != b"W":
            self.messages.horovod.append(horovod[2].rstrip())
            return b""
        if horovod:
            text = b"warning by Horovod: " + horovod[2]
        if self.stderr and text.strip() and not LOG.match(text):
            self.messages.errors[rank] = text.strip()
        return text if rank == 0 else b"[%d] %b" % (rank, text)

    def show(self, text: bytes) -> None:
        try:
            self.target.write(text)
            self.target.flush()
        except BrokenPipeError:  # our reader has ended; the run goes on, as under nohup
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.target.fileno())


class Launch:
    """Runs commands one after the other in the foreground and passes signals on to them.

    Attributes:
        machines: The names of the workers' machines; empty if that is this one.
        signal: The first signal that came, or None.
        error: What ended the last run, with the last words of its worker, to compare with another
            run; None if it was no error of the program: a signal ended a worker, or the others lost
            the connection to it.
    """

    def __init__(self, status_file: Path):
        self.status_file = status_file
        self.machines: list[str] = []
        self.child: subprocess.Popen | None = None
        self.signals = 0
        self.signal: int | None = None
        self.error: str | None = None
        self.deadline = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP: so do we
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame=None) -> None:
        """Passes the first signal to the workers, which may finish; ends horovodrun at the next."""
        self.signals += 1
        if self.signal is None:
            self.signal = number
            self.deadline = time.monotonic() + float(os.environ.get("TFADV_GRACE_SECONDS", 600))
        if self.child is None or self.child.poll() is not None:
            return
        # Not through horovodrun: it kills a worker 5 s after it was told to stop. One worker with
        # the signal tells the others, so machines are only asked if there is none on this one.
        if self.signals == 1 and (stop(self.status_file, number) or self.stop_elsewhere(number)):
            return
        if self.signals <= 2:
            send(self.child.pid, signal.SIGTERM)
        else:
            for process in (*workers(self.status_file), self.child.pid):
                send(process, signal.SIGKILL)

    def stop_elsewhere(self, number: int) -> bool:
        """Has `stop` called on the other machines, by ssh as horovodrun does; whether it was."""
        # In the order of their ranks, until a machine has workers.
        for command in ssh_commands(self.status_file):
            words = [sys.executable, __file__, str(self.status_file), str(number)]
            try:
                ended = subprocess.run(
                    [*command[:-1], shlex.join(words)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=30,
                )
            except (OSError, subprocess.TimeoutExpired):
                continue
            if ended.returncode == 0:
                return True
        return False

    def check(self, command: list[str], environment: dict[str, str]) -> int:
        """Runs a command with our streams; returns its status, or 128+n after signal n."""
        self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        status = shell_status(self.child.wait())
        return 128 + self.signal if self.signal else status

    def run(self, command: list[str], environment: dict[str, str], raw: bool, ends: bytes) -> int:
        """Runs horovodrun to its end; returns the exit status for the whole run."""
        self.error = None
        if self.signal:  # it came before there was a process to pass it on to
            return 128 + self.signal
        messages = Messages(machines=self.machines)
        self.status_file.write_text("")
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # the terminal's Ctrl-C reaches it only through us
            preexec_fn=die_with_parent,
        ) as self.child:
            streams = selectors.DefaultSelector()
            for pipe, target in ((self.child.stdout, sys.stdout), (self.child.stderr, sys.stderr)):
                output = Output(target.buffer, messages, raw, ends, stderr=target is sys.stderr)
                streams.register(pipe, selectors.EVENT_READ, output)
            ended = None
            while streams.get_map():
                for key, _ in streams.select(timeout=0.5):
                    data = os.read(key.fd, 65536)
                    key.data.feed(data)
                    if not data:
                        streams.unregister(key.fileobj)
                if ended is None and self.child.poll() is not None:
                    ended = time.monotonic()
                if ended is not None and time.monotonic() > ended + 10:
                    break  # a process that outlived horovodrun holds on to our pipe
                if time.monotonic() > self.deadline:
                    self.deadline = time.monotonic() + 10
                    self.on_signal(self.signal)
            status = shell_status(self.child.wait())
        self.error = error(messages, status)
        words = self.status_file.read_text().split()
        given = int(words[0]) if words and words[0].isdecimal() else 0
        # Workers on other machines have no such file, and those that horovodrun stopped because of
        # them may have written one.
        cause = messages.cause
        if cause in (USERS_MISTAKE, RESUME):
            given = cause
        elif given == RESUME and cause and not signal_name(cause):
            given = 0
        # Other workers may have reported a status when one was killed, which could not.
        killed = messages.first is not None and signal_name(messages.first[1])
        if status and not raw and self.signal is None and (killed or not given):
            say(reason(messages))
        if given:
            return given
        return 128 + self.signal if self.signal else status


def stop(status_file: Path, number: int) -> bool:
    """Passes a signal on to the workers on this machine; returns whether there are any."""
    targets = workers(status_file)
    for worker in targets:
        # A worker that still imports and handles neither signal receives SIGTERM after Ctrl-C too,
        # as from horovodrun, and so ends without a traceback.
        ready = {signal.SIGINT, signal.SIGTERM} <= caught(worker)
        send(worker, number if ready and number == signal.SIGINT else signal.SIGTERM)
    return bool(targets)


def workers(status_file: Path) -> list[int]:
    """Returns the workers on this machine: processes with our status file and a rank."""
    ours = f"TFADV_STATUS_FILE={status_file}".encode()
    rank = re.compile(rb"(HOROVOD|OMPI_COMM_WORLD|PMI)_RANK=")
    parents = {}
    for process, variables in processes():
        if ours in variables and any(rank.match(variable) for variable in variables):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process}/stat").read_text()
                parents[process] = int(status.rpartition(")")[2].split()[1])
    return [worker for worker, parent in parents.items() if parent not in parents]


def ssh_commands(status_file: Path) -> list[list[str]]:
    """Returns the commands by which horovodrun has started workers elsewhere, by their ranks."""
    ours = f"TFADV_STATUS_FILE={status_file}"
    commands = []  # horovodrun starts them from threads, in no order
    for process, variables in processes():
        if ours.encode() in variables:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                command = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")[:-1]
                if command and Path(command[0]).name == "ssh" and ours in command[-1]:
                    rank = re.search(r"\bHOROVOD_RANK=(\d+)", command[-1])
                    commands.append((int(rank[1]) if rank else 0, command))
    return [command for _, command in sorted(commands)]


def processes() -> Iterator[tuple[int, list[bytes]]]:
    """Yields the processes of this user on this machine, with their environment variables."""
    for entry in sorted(glob.glob("/proc/[0-9]*"), key=lambda entry: int(Path(entry).name)):
        with contextlib.suppress(OSError):  # it belongs to another user, or has ended
            yield int(Path(entry).name), Path(entry, "environ").read_bytes().split(b"\0")


def reason(messages: Messages) -> str:
    """Returns one line on why horovodrun failed."""
    name = None
    if messages.first:
        rank, status = messages.first
        name = signal_name(status)
        line = f"worker {rank}"
        if rank < len(messages.machines):
            line += f" on {messages.machines[rank]}"
        line += f" ended first, with status {status}"
        if name:
            line += f" ({name})"
        elif status == LOST and messages.machines:
            line += " (a signal ended it, or ssh lost its machine)"
        line += "; the others were stopped"
    else:
        lines = messages.text.split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        line = f"horovodrun failed: {last}"
    if messages.horovod and not name:
        # The last part is the system's message; before it stand paths of Horovod's sources.
        detail = messages.horovod[0].decode(errors="replace")
        line += f" (Horovod: {re.sub(r'.*[.]cc:[0-9]+[]] ', '', detail).strip()})"
    return line


def error(messages: Messages, status: int) -> str | None:
    """Returns `Launch.error` after a run of horovodrun that ended with a status."""
    if not messages.first:
        return None if not status or signal_name(status) else reason(messages)
    rank, status = messages.first
    last = messages.errors.get(rank, b"")
    if signal_name(status) or status in NO_ERROR or FOLLOWED in last:
        return None
    return f"status {status}: {last.decode(errors='replace')}"


def shell_status(status: int) -> int:
    """Returns the status as a shell has it: 128+n after signal n, not -n."""
    return status if status >= 0 else 128 - status


def signal_name(status: int) -> str | None:
    """Returns the name of the signal that ended a process with a status; None if none did."""
    number = status - 128 if status > 128 else -status
    return signal.Signals(number).name if number in list(signal.Signals) else None


def caught(process: int) -> set[int]:
    """Returns the signals that a process has handlers for."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return set()  # it has ended
    mask = int(re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


def die_with_parent() -> None:
    """Has the kernel end horovodrun, and so its workers, if this process is killed outright."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (AttributeError, OSError):
        pass  # not Linux


def supervise(start: Callable[[bool], int], launch: Launch, run_directory: str, times: int) -> int:
    """Runs a training, and after a failure again from its newest checkpoint.

    It gives up when the same error, not a signal, ended the training twice at the same place.

    Args:
        start: Function that runs the training, resumed or not, and returns its status.
        launch: The `Launch` that `start` uses.
        run_directory: Directory of the training.
        times: How often to start it again at most.

    Returns:
        The status of the last run.
    """
    pause = float(os.environ.get("TFADV_RESTART_SECONDS", 10))
    before = None
    for restart in itertools.count(1):
        status = start(restart > 1)
        if status in (0, USERS_MISTAKE) or launch.signal is not None or not times:
            return status
        checkpoint = newest(run_directory)
        end = launch.error, checkpoint
        name = checkpoint and checkpoint[-1]
        if launch.error is not None and end == before:
            place = f"after {name}" if name else "before its first checkpoint"
            return give_up(status, f"the same error ended it twice, {place}")
        if restart > times:
            return give_up(status, f"it was started again {times} times")
        before = end
        say(
            f"ended with status {status}; restart {restart} of {times}, from "
            f"{name or 'the beginning'}, in {pause:g} s"
        )
        until = time.monotonic() + pause
        while time.monotonic() < until:
            time.sleep(0.05)
            if launch.signal is not None:
                return RESUME
        pause = min(2 * pause, max(600, pause))


def newest(run_directory: str) -> tuple[int, str] | None:
    """Returns the time and the name of the checkpoint that a run wrote last, or None.

    That is not always the one with the most updates: if that one is damaged, the training resumes
    from an earlier one.
    """
    # As tfadv.checkpoint_files names them: finished epochs, and updates of the next one.
    checkpoint = re.compile(r"epoch-\d+(-step-\d+)?\.keras")
    paths = Path(run_directory, "checkpoints").glob("epoch-*.keras")
    return max(
        ((p.stat().st_mtime_ns, p.name) for p in paths if checkpoint.fullmatch(p.name)),
        default=None,
    )


def give_up(status: int, reason: str) -> int:
    say(f"ended with status {status} and is not started again: {reason}")
    return status


def say(text: str) -> None:
    print(f"run_horovod.sh: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":  # on a machine on which a Launch has workers and is not itself
    sys.exit(not stop(Path(sys.argv[1]), int(sys.argv[2])))
