"""One start of a run under tools/chaos.py: workers under horovodrun, watched to their end."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2


class ChaosError(Exception):
    """A run that did something else than to end, or to be killed."""


@dataclasses.dataclass
class Start:
    """What became of one start of a run.

    Attributes:
        status: Of the launcher.
        output: What all workers said.
        killed: Whether the kill was done.
        updates: How far the workers were at the end; None before the training.
        seconds: Of all of it,
        begun: from the start to the training,
        ended: and from the kill until all workers had ended.
    """

    status: int
    output: str
    killed: bool
    updates: int | None
    seconds: float
    begun: float
    ended: float | None


def start(directory, flags, kill=None, scale=(10.0, 10.0), horovodrun=True, timeout=900):
    """Starts a run, or resumes it, and waits for its end.

    Args:
        directory: Of the run.
        flags: Of the program.
        kill: A `Kill`, or None.
        scale: Seconds that an undisturbed run takes to start, and then to train.
        horovodrun: Whether it launches the workers; else tools/local_workers.py, which is faster.
        timeout: Seconds.

    Returns:
        A `Start`.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_DETERMINISTIC_OPS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
    }
    launcher = [sys.executable, ROOT / "tools" / "local_workers.py", str(WORKERS)]
    if horovodrun:
        launcher = [Path(sys.executable).parent / "horovodrun", "-np", str(WORKERS), "--gloo"]
        launcher += ["env", "--"]  # or it takes --network for an abbreviation of its own
    program = [sys.executable, ROOT / "tools" / "chaos_worker.py"]
    flags = [*flags, f"--run_dir={directory}", "--resume"]
    with tempfile.TemporaryDirectory(prefix="tfadv-chaos-") as name:
        folder = Path(name)
        environment["TFADV_CHAOS_DIR"] = name
        if kill is not None:
            environment["TFADV_CHAOS"] = kill.dump()
        with open(folder / "output", "w+b") as output:
            process = subprocess.Popen(
                [*launcher, *program, *flags],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                times = _watch(process, folder, kill, scale, timeout)
            finally:
                _end(process, folder)
            output.seek(0)
            said = output.read().decode(errors="replace")
        updates = [int(path.read_text() or 0) for path in folder.glob("updates-*")]
        # One that comes too late meets a run that has ended well.
        killed = process.returncode != 0 and (folder / "struck").exists()
        return Start(process.returncode, said, killed, max(updates, default=None), *times)


def _watch(process, folder, kill, scale, timeout):
    """Waits for the workers' end, and kills where the kill is for us to do."""
    began = time.time()
    begun = ended = None
    outside = kill is not None and kill.kind == "random"
    while True:
        now = time.time()
        if begun is None and (folder / "updates-0").exists():
            begun = now
        struck = folder / "struck"
        if outside and not struck.exists() and len(_workers(folder)) == WORKERS:
            since = began if kill.moment == "starting" else begun
            longest = scale[0] if kill.moment == "starting" else scale[1]
            if since is not None and now - since >= kill.delay * longest:
                _strike(kill, folder)
        if struck.exists() and ended is None and not any(map(_runs, _workers(folder).values())):
            ended = now - float(struck.read_text())
        if process.poll() is not None:
            break
        if now - began > timeout:
            raise ChaosError(f"a run has not ended after {timeout} s, behind {kill}")
        time.sleep(0.02)
    now = time.time()
    if struck.exists() and ended is None:
        ended = now - float(struck.read_text())
    return now - began, (begun or now) - began, ended


def _strike(kill, folder):
    (folder / "struck").write_text(str(time.time()))
    for rank, pid in _workers(folder).items():
        if kill.all or rank == kill.rank:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _workers(folder):
    """Rank -> process."""
    return {int(p.name[4:]): int(p.read_text() or 0) for p in folder.glob("pid-*")}


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(process, folder):
    """Leaves nothing behind, also where we are stopped."""
    if process.poll() is None:
        process.terminate()
        for pid in _workers(folder).values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
