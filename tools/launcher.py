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
from pathlib import Path

# How horovodrun, and mpirun for it, marks a worker's output: [0]<stdout>: or [1,0]<stdout>:
MARK = re.compile(rb"\[(?:\d+,)?(\d+)\]<(?:stdout|stderr)>:")
# What horovodrun says of its workers on stdout, also behind a worker's unfinished line.
LAUNCHER = re.compile(rb"(Process \d+ exit with status code|Terminating remaining workers).*\n?$")


class Output:
    """One stream of horovodrun's, on its way to ours.

    Rank 0's output loses its mark, so that a progress bar (carriage returns and all) looks as it
    does in one process; other workers' lines keep theirs as "[1] "; what horovodrun itself says is
    kept for `Launch` to judge.
    """

    def __init__(self, target, launcher: list[bytes], raw: bool, ends: bytes):
        self.target, self.launcher, self.raw = target, launcher, raw
        self.records = re.compile(rb"[^%b]*[%b]" % (ends, ends))
        self.pending = b""

    def feed(self, data: bytes) -> None:
        """Takes what was read; b"" means that the stream has ended."""
        if self.raw:
            self.show(data)
            return
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
        self.show(shown)

    def convert(self, record: bytes) -> bytes:
        mark = MARK.match(record)
        if mark is None:
            self.launcher.append(record)
            return b""
        text = record[mark.end() :]
        said = LAUNCHER.search(text)
        if said:
            self.launcher.append(said.group())
            text = text[: said.start()]
        if text.strip() == b"Terminated":  # horovodrun's shell, of a worker that it ended
            self.launcher.append(record)
            return b""
        rank = int(mark.group(1))
        return text if rank == 0 else b"[%d] %b" % (rank, text)

    def show(self, text: bytes) -> None:
        try:
            self.target.write(text)
            self.target.flush()
        except BrokenPipeError:  # whoever read us has gone; the run goes on, as under nohup
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.target.fileno())


class Launch:
    """Runs commands one after the other in the foreground's place and passes signals on to them."""

    def __init__(self, status_file: Path):
        self.status_file = status_file
        self.child: subprocess.Popen | None = None
        self.signals = 0
        self.signal: int | None = None
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
            # Not through horovodrun: it kills a worker 5 s after it was told to stop. And SIGTERM
            # after Ctrl-C too, as horovodrun would send: a worker that is still importing then
            # ends without a traceback.
            for worker in workers:
                send(worker, signal.SIGTERM)
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
        if self.signal:  # it came before there was anyone to pass it on to
            return 128 + self.signal
        said: list[bytes] = []
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
                streams.register(pipe, selectors.EVENT_READ, Output(target.buffer, said, raw, ends))
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
        given = self.status_file.read_text().split()
        if given and given[0].isdecimal() and int(given[0]):
            return int(given[0])
        if self.signal:
            return 128 + self.signal
        if status and not raw:
            print(
                "run_horovod.sh:", reason(b"".join(said).decode(errors="replace")), file=sys.stderr
            )
        return status if status >= 0 else 128 - status


def reason(said: str) -> str:
    """One line out of what horovodrun said when it failed."""
    first = re.search(r"Process name: (\d+)\s+Exit code: (\d+)", said)
    if first:
        return f"worker {first[1]} ended first, with status {first[2]}; the others were stopped"
    lines = [line for line in said.splitlines() if line.strip()]
    return "horovodrun failed: " + (lines[-1].strip() if lines else "it said nothing")


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
