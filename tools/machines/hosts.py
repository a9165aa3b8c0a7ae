"""Hosts on this machine: namespaces of the kernel, joined by a bridge, with an ssh server each.

A host has a network interface, an address, a name, processes, /tmp, /run and /dev/shm of its own.
It shares all other files with this machine. Nothing appears in this machine's own network. All
namespaces are held by processes that the kernel kills when the process that made them ends, however
it ends. Then another process removes the folder under /var/tmp that they shared; if that one was
killed as well, the next start or `clean` removes the folder.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER, PREFIX = "/var/tmp", "tfadv-machines-"
INTERFACE = "eth0"  # Horovod needs the same name on all hosts
# Commands that hosts need, and the Debian packages that bring them.
PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "setpriv": "util-linux",
    "flock": "util-linux",
}
# The beginning of a command that the kernel kills when this process ends, with all that it started.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]

# The first process of a host: prepares it, and collects processes whose parents have ended.
BOOT = """
set -e
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd /tmp/home
mount --bind "$FOLDER/etc/hosts" /etc/hosts
mount --bind "$FOLDER/etc/ssh_config" /etc/ssh/ssh_config
hostname "$NAME"
ip link set lo up
touch "$FOLDER/$NAME.booted"
until ip address show eth0 2>/dev/null | grep -q inet; do sleep 0.1; done
/usr/sbin/sshd -D -f "$FOLDER/etc/sshd_config" -E "$FOLDER/$NAME.sshd.log" &
while :; do sleep 3600 & wait $!; done
"""

# Waits for the end of the process that holds a folder's lock, and removes the folder. While the
# hosts' last processes end, they may still write into it.
REMOVE = """
exec 9<"$1/lock" && flock 9
for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && break; sleep 0.5; done
"""

SSHD = """
Port 22
HostKey {folder}/etc/host_key
AuthorizedKeysFile {folder}/etc/key.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100
"""

SSH = """
Host *
    IdentityFile {folder}/etc/key
    IdentitiesOnly yes
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking no
    LogLevel ERROR
"""


class Failure(Exception):
    """A case, or what it needs, failed; the text is one line."""


def missing(packages: dict[str, str]) -> list[str]:
    """Returns the Debian packages of those commands that this machine lacks, sorted."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return sorted({package for command, package in packages.items() if not which(command, path)})


def which(command: str, path: str) -> str | None:
    return command if os.path.exists(command) else shutil.which(command, path=path)


def install(packages: list[str]) -> None:
    """Installs Debian packages, without starting their services."""
    if not packages:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Failure(f"these packages are missing: {', '.join(packages)}")
    print(f"installing {' '.join(packages)}...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    for attempt in (["apt-get", "update", "-qq"], command):
        result = subprocess.run(attempt, env=environment, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip() or "it said nothing").splitlines()[-1]
        raise Failure(f"apt-get could not install {', '.join(packages)}: {last}")


def check() -> None:
    """Raises `Failure` unless this process may make hosts here."""
    if os.geteuid():
        raise Failure("only root can make hosts; run it as root")
    if ROOT.is_relative_to("/tmp"):
        raise Failure(f"the checkout must not be in /tmp, which each host replaces: {ROOT}")


class Hosts(contextlib.ExitStack):
    """Some hosts, for as long as the context lasts.

    Args:
        names: Their names.

    Attributes:
        folder: A folder that all hosts share, removed at the end.
        log: File of what this class ran, for a look when something fails.
    """

    def __init__(self, *names: str):
        super().__init__()
        self.names = names
        self._holders: list[subprocess.Popen] = []
        self._first: dict[str, int] = {}  # name -> the host's first process, as seen from here

    def __enter__(self):
        super().__enter__()
        clean()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDER))
        self.folder.chmod(0o755)
        lock = open(self.folder / "lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        remover = subprocess.Popen(
            ["sh", "-c", REMOVE, "sh", self.folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.callback(remover.wait)
        self.enter_context(lock)
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def address(self, name: str) -> str:
        return f"10.99.0.{self.names.index(name) + 1}"

    def _make(self):
        etc = self.folder / "etc"
        etc.mkdir()
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in self.names)]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        for name in ("key", "host_key"):
            self._call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / name))
        (etc / "sshd_config").write_text(SSHD.format(folder=self.folder))
        (etc / "ssh_config").write_text(SSH.format(folder=self.folder))
        self._hold("switch", ["--net"], "while :; do sleep 3600; done")
        self._in_switch("ip", "link", "add", "bridge", "type", "bridge")
        self._in_switch("ip", "link", "set", "bridge", "up")
        for name in self.names:
            self._hold(name, ["--net", "--uts", "--ipc", "--mount", "--mount-proc"], BOOT)
        self._wait(lambda: all((self.folder / f"{name}.booted").exists() for name in self.names))
        for name in self.names:
            link = ["ip", "link", "add", name, "type", "veth", "peer", "name", INTERFACE]
            self._in_switch(*link, "netns", str(self._first[name]))
            self._plug(name)
            self.call(name, "ip", "link", "set", INTERFACE, "up")
            self.call(name, "ip", "address", "add", f"{self.address(name)}/24", "dev", INTERFACE)
        for name in self.names:
            self._wait(lambda name=name: self.run(self.names[0], ["ssh", name, "true"])[0] == 0)

    def _hold(self, name, namespaces, script):
        """Starts the process that holds a host's namespaces until this process ends."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [*ENDS_WITH_US, *namespaces, "sh", "-c", script, f"{self.folder}/{name}"],
                env={**os.environ, "NAME": name, "FOLDER": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command alone
            )
        self.callback(end, process)
        self._holders.append(process)
        self._wait(lambda: children(process.pid))
        [self._first[name]] = children(process.pid)

    def _in_switch(self, *command):
        self._call("nsenter", f"--net=/proc/{self._first['switch']}/ns/net", *command)

    def _call(self, *command):
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise Failure(f"{' '.join(command)}: {' '.join(result.stderr.split())}")
        return result.stdout

    def _wait(self, condition, seconds=60):
        until = time.monotonic() + seconds
        while not condition():
            ended = any(holder.poll() is not None for holder in self._holders)
            if ended or time.monotonic() > until:
                logs = [path.read_text() for path in self.folder.glob("*.log")]
                raise Failure(f"a host did not start: {' '.join(' '.join(logs).split())}")
            time.sleep(0.1)

    def command(self, name: str, command: list[str], environment: dict | None = None) -> list[str]:
        """Returns the command that runs another one on a host, from the checkout's folder."""
        variables = {"HOME": "/tmp/home", "TMPDIR": "/tmp", **(environment or {})}
        inside = ["env", *(f"{key}={value}" for key, value in variables.items()), *command]
        target = f"--target={self._first[name]}"
        enter = ["nsenter", target, "--net", "--uts", "--ipc", "--mount", "--pid", "--"]
        return [*enter, "sh", "-c", f'cd "{ROOT}" && exec "$@"', "sh", *map(str, inside)]

    def call(self, name: str, *command: str) -> str:
        """Runs a command on a host and returns its output; raises `Failure` if it fails."""
        return self._call(*self.command(name, list(command)))

    def run(self, name: str, command: list[str], seconds: float = 600, **variables: str):
        """Runs a command on a host to its end; returns its status and all of its output."""
        with self.start(name, command, **variables) as process:
            return process.wait(seconds), process.output

    def start(self, name: str, command: list[str], **variables: str) -> "Process":
        """Starts a command on a host, with more environment variables."""
        return Process(self, name, command, variables)

    def processes(self, name: str, words: str = "") -> dict[int, str]:
        """Returns the command lines of a host's processes that hold `words`, by process id."""
        namespace = os.readlink(f"/proc/{self._first[name]}/ns/pid")
        result = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(path / "ns" / "pid") == namespace:
                    line = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                    if line and words in line.decode(errors="replace"):
                        result[int(path.name)] = line.decode(errors="replace").strip()
        return result

    def workers(self, name: str) -> dict[int, str]:
        """Returns the workers of trainings on a host, as `processes` does."""
        return {pid: line for pid, line in self.processes(name).items() if is_worker(pid)}

    @contextlib.contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Context in which a host's cable is pulled: nothing reaches it, and nobody is told."""
        self._in_switch("ip", "link", "set", name, "nomaster", "up")
        try:
            yield
        finally:
            self._plug(name)

    def _plug(self, name):
        self._in_switch("ip", "link", "set", name, "master", "bridge", "up")

    @contextlib.contextmanager
    def shaped(self, delay: float = 0, loss: float = 0, rate: str = "") -> Iterator[None]:
        """Context in which the network is slower and worse.

        Args:
            delay: Seconds by which all that a host sends comes later.
            loss: Share of the packets that are lost.
            rate: Bits a second that a host sends at most, as tc says it: `"1gbit"`.
        """
        with contextlib.ExitStack() as stack:
            if delay or loss:
                stack.enter_context(self._relayed(delay, loss))
            for name in self.names if rate else ():
                device = ["dev", INTERFACE, "root"]
                limits = ["tbf", "rate", rate, "burst", "256k", "latency", "100ms"]
                self.call(name, "tc", "qdisc", "replace", *device, *limits)
                stack.callback(self.call, name, "tc", "qdisc", "delete", *device)
            yield

    @contextlib.contextmanager
    def _relayed(self, delay, loss):
        relay = [sys.executable, str(Path(__file__).with_name("relay.py")), str(delay), str(loss)]
        switch = f"--net=/proc/{self._first['switch']}/ns/net"
        command = ["setpriv", "--pdeathsig", "KILL", "nsenter", switch, *relay, *self.names]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                if not process.stdout.readline():
                    raise Failure("no delay or loss without /dev/net/tun")
                for name in self.names:
                    self._in_switch("ip", "link", "set", name, "nomaster")
                    self._plug(f"{name}-far")
                yield
            finally:
                process.kill()
                for name in self.names:
                    self._plug(name)


class Process:
    """A command that runs on a host; a context that ends it, with all that it has started.

    Attributes:
        pid: The process of the command itself, as seen from here, or None once it has ended.
    """

    _count = 0

    def __init__(self, hosts, name, command, variables):
        Process._count += 1
        self.path = hosts.folder / f"output-{Process._count}"
        self.began = time.monotonic()
        with open(self.path, "wb") as output:
            self._process = subprocess.Popen(
                hosts.command(name, command, variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        hosts.callback(end, self._process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end(self._process)

    def pids(self) -> list[int]:
        return children(self._process.pid)

    def send(self, number: int) -> None:
        """Sends a signal to the command itself."""
        for pid in self.pids():
            os.kill(pid, number)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.path.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float) -> int:
        """Waits for its end; returns its status, as a shell has it."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"no end after {seconds:g} s; it said: {last_line(self.output)}"
            ) from None
        return status if status >= 0 else 128 - status

    def wait_for(self, text: str, seconds: float = 600) -> None:
        """Waits until its output holds a text."""
        self.wait_until(lambda: text in self.output, f"{text!r} in its output", seconds)

    def wait_until(self, condition, name: str, seconds: float = 600) -> None:
        """Waits until a function returns true; fails if the command ends before."""
        until = time.monotonic() + seconds
        while not condition():
            if self.ended or time.monotonic() > until:
                end = "it ended" if self.ended else f"{seconds:g} s passed"
                raise Failure(f"{end} without {name}; it said: {last_line(self.output)}")
            time.sleep(0.05)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def is_worker(pid: int) -> bool:
    """Whether a process is a worker itself, not a launcher or a launcher's shell."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        python = "python" in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False  # it has ended
    ranks = (b"HOROVOD_RANK=", b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
    return python and any(variable.startswith(ranks) for variable in environment)


def children(pid: int) -> list[int]:
    result = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                result.append(int(path.parent.name))
    return result


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def processes_of(folder: Path) -> list[int]:
    """Returns the processes whose command line names something in a folder of hosts."""
    result = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in path.read_bytes():
                result.append(int(path.parent.name))
    return result


def without_folder(text: str) -> str:
    """Returns a text without the random folder of hosts in its paths."""
    return re.sub(rf"{FOLDER}/{PREFIX}[^/\s]*/", "", text)


def clean() -> list[str]:
    """Removes what killed runs have left; returns it, in words."""
    result = []
    for folder in sorted(Path(FOLDER).glob(f"{PREFIX}*")):
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                lock = stack.enter_context(open(folder / "lock"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its run goes on
            for pid in processes_of(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    result.append(f"process {pid}")
            shutil.rmtree(folder, ignore_errors=True)
            result.append(str(folder))
    return result
