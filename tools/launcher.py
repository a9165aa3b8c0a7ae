"""What tools/run_horovod.py runs horovodrun with: its output sorted, signals passed on."""

import ctypes
import glob
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# How horovodrun, and mpirun for it, marks a worker's output: [0]<stdout>: or [1,0]<stdout>:
MARK = re.compile(rb"\[(?:\d+,)?(\d+)\]<(?:stdout|stderr)>:")
# What horovodrun says of its workers on stdout, also behind a worker's unfinished line.
LAUNCHER = re.compile(rb"(Process \d+ exit with status code|Terminating remaining workers).*\n?$")
# What horovodrun's shell says of a worker that was ended.
SHELL = (b"Terminated", b"Killed")
# What Horovod itself logs of an error in its thread, with a path of the machine that built it.
HOROVOD = re.compile(rb"\[[-\d]+ [ :.\d]+: [EF] \S*horovod/\S+:\d+\] (.*)")
# Lines that TensorFlow logs, with times and numbers of processes.
LOG = re.compile(
    rb"[IWEF]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:|WARNING: All log messages before"
)
# Statuses that are no error of the program: of one that was told to stop, and of ssh when it loses
# a machine, such as one that was pre-empted.
NO_ERROR = (75, 255)
# What a worker says that ended because another one did.
FOLLOWED = b"stopped, since another one ended"


@dataclass
class Said:
    """What was said in one run of horovodrun, for `Launch` to judge."""

    launcher: list[bytes] = field(default_factory=list)  # by horovodrun and its shell
    horovod: list[bytes] = field(default_factory=list)  # by Horovod, of its errors
    errors: dict[int, bytes] = field(default_factory=dict)  # rank -> its last line on stderr


class Output:
    """One stream of horovodrun's, on its way to ours.

    Rank 0's output loses its mark, so that a progress bar (carriage returns and all) looks as it
    does in one process; other workers' lines keep theirs as "[1] "; what horovodrun and Horovod
    say themselves is kept in `said`. A raw stream is shown as it comes, and kept all the same.
    """

    def __init__(self, target, said: Said, raw: bool, ends: bytes, stderr: bool = False):
        self.target, self.said, self.raw, self.stderr = target, said, raw, stderr
        self.records = re.compile(rb"[^%b]*[%b]" % (ends, ends))
        self.pending = b""

    def feed(self, data: bytes) -> None:
        """Takes what was read; b"" means that the stream has ended."""
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
        if not self.raw:
            self.show(shown)

    def convert(self, record: bytes) -> bytes:
        # A raw record may begin with a time.
        mark = MARK.search(record) if self.raw else MARK.match(record)
        if mark is None:
            self.said.launcher.append(record)
            return b""
        text = record[mark.end() :]
        launcher = LAUNCHER.search(text)
        if launcher:
            self.said.launcher.append(launcher.group())
            text = text[: launcher.start()]
        if text.strip() in SHELL:
            self.said.launcher.append(record)
            return b""
        horovod = HOROVOD.match(text)
        if horovod:
            self.said.horovod.append(horovod.group(1))
            return b""
        rank = int(mark.group(1))
        if self.stderr and text.strip() and not LOG.match(text):
            self.said.errors[rank] = text.strip()
        return text if rank == 0 else b"[%d] %b" % (rank, text)

    def show(self, text: bytes) -> None:
        try:
            self.target.write(text)
            self.target.flush()
        except BrokenPipeError:  # whoever read us has gone; the run goes on, as under nohup
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.target.fileno())


class Launch:
    """Runs commands one after the other in the foreground's place and passes signals on to them.

    Attributes:
        signal: The first signal that came, or None.
        error: What ended the last run, with its worker's last words, to be compared with another
            run's; None where it was no error of the program: a signal ended a worker, or the others
            lost it.
    """

    def __init__(self, status_file: Path):
        self.status_file = status_file
        self.child: subprocess.Popen | None = None
        self.signals = 0
        self.signal: int | None = None
        self.error: str | None = None
        self.deadline = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP: so do we
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame=None) -> None:
        """First to the workers, who may finish their step; then to horovodrun, who ends them."""
        self.signals += 1
        if self.signal is None:
            self.signal = number
            self.deadline = time.monotonic() + float(os.environ.get("TFADV_GRACE_SECONDS", 600))
        if self.child is None or self.child.poll() is not None:
            return
        workers = self.workers()
        if self.signals == 1 and workers:
            # Not through horovodrun: it kills a worker 5 s after it was told to stop.
            for worker in workers:
                # After Ctrl-C too SIGTERM, as horovodrun would send, for one that is not ready for
                # either: while it still imports, it ends without a traceback.
                ready = {signal.SIGINT, signal.SIGTERM} <= caught(worker)
                send(worker, number if ready and number == signal.SIGINT else signal.SIGTERM)
        elif self.signals <= 2:
            send(self.child.pid, signal.SIGTERM)
        else:
            for process in (*workers, self.child.pid):
                send(process, signal.SIGKILL)

    def workers(self) -> list[int]:
        """The workers on this machine: who has our status file and a rank in the environment."""
        ours = f"TFADV_STATUS_FILE={self.status_file}".encode()
        rank = re.compile(rb"(HOROVOD|OMPI_COMM_WORLD|PMI)_RANK=")
        parents = {}
        for entry in glob.glob("/proc/[0-9]*"):
            try:
                variables = Path(entry, "environ").read_bytes().split(b"\0")
                status = Path(entry, "stat").read_text()
            except (OSError, UnicodeDecodeError):
                continue  # someone else's, or gone
            if ours in variables and any(rank.match(variable) for variable in variables):
                parents[int(Path(entry).name)] = int(status.rpartition(")")[2].split()[1])
        return [worker for worker, parent in parents.items() if parent not in parents]

    def check(self, command: list[str], environment: dict[str, str]) -> int:
        """Runs a command to its end with our streams; returns its status, 128+n after signal n."""
        self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        status = self.child.wait()
        return 128 + self.signal if self.signal else status if status >= 0 else 128 - status

    def run(self, command: list[str], environment: dict[str, str], raw: bool, ends: bytes) -> int:
        """Runs horovodrun to its end; returns the status that the whole run shall have."""
        self.error = None
        if self.signal:  # it came before there was anyone to pass it on to
            return 128 + self.signal
        said = Said()
        self.status_file.write_text("")
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # the terminal's Ctrl-C reaches it through us, and only so
            preexec_fn=die_with_parent,
        ) as self.child:
            streams = selectors.DefaultSelector()
            for pipe, target in ((self.child.stdout, sys.stdout), (self.child.stderr, sys.stderr)):
                output = Output(target.buffer, said, raw, ends, stderr=target is sys.stderr)
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
            status = self.child.wait()
        status = status if status >= 0 else 128 - status
        text = b"".join(said.launcher).decode(errors="replace")
        first = FIRST.search(text)
        self.error = error(said, text, first, status)
        given = self.status_file.read_text().split()
        given = int(given[0]) if given and given[0].isdecimal() else 0
        # The others may have a status of their own when one was killed, which cannot say so.
        killed = first is not None and by_signal(int(first[2]))
        if status and not raw and self.signal is None and (killed or not given):
            print("run_horovod.sh:", reason(said, text, first), file=sys.stderr)
        if given:
            return given
        return 128 + self.signal if self.signal else status


# Which worker ended first, in what horovodrun says when it fails.
FIRST = re.compile(r"Process name: (\d+)\s+Exit code: (-?\d+)")


def reason(said: Said, text: str, first: re.Match | None) -> str:
    """One line out of what horovodrun, and Horovod, said when they failed."""
    if first:
        status = first[2] + (f" ({by_signal(int(first[2]))})" if by_signal(int(first[2])) else "")
        line = f"worker {first[1]} ended first, with status {status}; the others were stopped"
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        line = "horovodrun failed: " + (lines[-1].strip() if lines else "it said nothing")
    if said.horovod and not (first and by_signal(int(first[2]))):
        # Its last part is what the system said; before it stand paths of Horovod's sources.
        detail = said.horovod[0].decode(errors="replace")
        line += f" (Horovod: {re.sub(r'.*[.]cc:[0-9]+[]] ', '', detail).strip()})"
    return line


def error(said: Said, text: str, first: re.Match | None, status: int) -> str | None:
    """What `Launch.error` is after a run."""
    if not first:
        return None if not status or by_signal(status) else reason(said, text, first)
    last = said.errors.get(int(first[1]), b"")
    if by_signal(int(first[2])) or int(first[2]) in NO_ERROR or FOLLOWED in last:
        return None
    return f"status {first[2]}: {last.decode(errors='replace')}"


def by_signal(status: int) -> str | None:
    """The name of the signal that ended a process, out of its status; None if it ended itself."""
    number = status - 128 if status > 128 else -status
    return signal.Signals(number).name if number in list(signal.Signals) else None


def caught(process: int) -> set[int]:
    """The signals that a process has handlers for."""
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
    """Has the kernel end horovodrun, and it its workers, should this process be killed outright."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (AttributeError, OSError):
        pass  # not Linux
