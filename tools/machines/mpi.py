"""Trainings that MPI starts, and whose workers reduce by MPI."""

import functools
import os
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from pathlib import Path

from machines.cases import case
from machines.hosts import ENDS_WITH_US, ROOT, Failure, Hosts, last_line
from machines.trainings import (
    ENVIRONMENT,
    WORKERS,
    Pause,
    finish,
    flags,
    line_with,
    no_workers,
    reference,
    run,
    same_bits,
    stopped_and_resumed,
    told,
)

HOSTS = ("hosta", "hostb")
TWO = ["-np", "2", "-H", "hosta:1,hostb:1"]
# Workers of all hosts share cores, on which MPI would otherwise wait as fast as it can.
VARIABLES = {**ENVIRONMENT, "OMPI_MCA_mpi_yield_when_idle": "1"}
PACKAGES = {
    "mpirun": "openmpi-bin",
    "/usr/include/x86_64-linux-gnu/mpi/mpi.h": "libopenmpi-dev",
    "cmake": "cmake",
    "g++": "g++",
}


@functools.cache
def python(hosts: Hosts) -> str:
    """Returns the Python of an environment like the checkout's, whose Horovod has MPI and Gloo.

    Its packages are links to those of the checkout's environment. The first build takes 9 minutes
    of a core; the wheel is kept as tools/build_horovod.sh keeps all others.
    """
    folder = hosts.folder / "mpi-environment"
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("horovod", "__editable__", "__pycache__")):
            packages.joinpath(path.name).symlink_to(path)
    print("building Horovod with MPI, unless it is kept...", flush=True)
    result = subprocess.run(
        [*ENDS_WITH_US, "--mount-proc", ROOT / "tools" / "build_horovod.sh"],
        env={**os.environ, "PYTHON": str(folder / "bin" / "python"), "HOROVOD_WITH_MPI": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise Failure(f"no Horovod with MPI: {last_line(result.stderr)}")
    return str(folder / "bin" / "python")


def horovodrun(hosts, *options):
    """Returns the beginning of a command of run_horovod.sh, with that Python."""
    return [python(hosts), "tools/run_horovod.py", "--mpi", *options]


def mpirun(hosts, count, where, variables=VARIABLES):
    """Returns the beginning of a command line for workers that mpirun itself starts."""
    passed = [word for name in variables for word in ("-x", name)]
    command = ["mpirun", "--allow-run-as-root", "-np", str(count), "-H", where, *passed]
    return [*command, python(hosts), "-m", "tfadv.train"]


def train(hosts, command, **variables):
    """Runs a command on hosta; raises `Failure` unless it succeeds."""
    run(hosts, "hosta", command, **{**VARIABLES, **variables})


@functools.cache
def one_machine(hosts: Hosts) -> Path:
    """Returns the directory of a run of all workers on one host, by MPI; it runs once."""
    directory = hosts.folder / "one-machine-mpi"
    command = [*mpirun(hosts, WORKERS, f"hosta:{WORKERS}"), *flags(directory)]
    train(hosts, command)
    return directory


def compared(directory: Path, expected: Path) -> dict:
    import chaos  # imports TensorFlow

    result = chaos.compare(directory, expected)
    shutil.rmtree(directory)
    return result


def equal(directory: Path, expected: Path) -> str:
    """Compares two runs by MPI; returns the count of bits, or raises `Failure`."""
    result = compared(directory, expected)
    if result["differences"]:
        count, first = len(result["differences"]), result["differences"][0]
        raise Failure(f"{count} differences from one machine with MPI, the first: {first}")
    return f"0 of {result['bits']:,} bits differ from {WORKERS} workers of MPI on one machine"


@case("mpirun", "`mpirun -np 4` over two hosts: the bits of MPI on one machine", HOSTS, PACKAGES)
def mpirun_alone(hosts):
    directory = hosts.folder / "mpirun"
    train(hosts, [*mpirun(hosts, WORKERS, "hosta:2,hostb:2"), *flags(directory)])
    return equal(directory, one_machine(hosts))


@case("mpi-horovodrun", "`horovodrun --mpi` over two hosts: the same", HOSTS, PACKAGES)
def mpi_horovodrun(hosts):
    directory = hosts.folder / "mpi-horovodrun"
    program = ["env", "--", python(hosts), "-m", "tfadv.train", *flags(directory)]
    launcher = str(Path(python(hosts)).with_name("horovodrun"))
    command = [launcher, "--mpi", "-np", str(WORKERS), "-H", "hosta:2,hostb:2", *program]
    train(hosts, command)
    return equal(directory, one_machine(hosts))


@case("mpi-gloo", "MPI and Gloo: the same bits of two workers, not of four", HOSTS, PACKAGES)
def mpi_gloo(hosts):
    # a + b is b + a, but (a + b) + (c + d) is not ((a + b) + c) + d.
    directory = hosts.folder / "mpi-gloo"
    train(hosts, [*mpirun(hosts, 2, "hosta:1,hostb:1"), *flags(directory)])
    two = same_bits(hosts, directory, 2)
    shutil.copytree(one_machine(hosts), directory)
    four = compared(directory, reference(hosts))
    return f"{two}; {four['differing_bits']:,} of {four['bits']:,} do for {WORKERS}"


@case("mpi-stop", "SIGTERM to `run_horovod.sh --mpi`: a checkpoint, 75, resumed", HOSTS, PACKAGES)
def mpi_stop(hosts):
    directory = hosts.folder / "mpi-stop"
    command = [*horovodrun(hosts, *TWO), *flags(directory)]
    return stopped_and_resumed(hosts, "hosta", directory, command, **VARIABLES)


@case("mpi-mpirun-stop", "SIGTERM to `mpirun` itself", HOSTS, PACKAGES)
def mpi_mpirun_stop(hosts):
    directory = hosts.folder / "mpi-mpirun-stop"
    pause = Pause(hosts, "step", 1)
    variables = {**VARIABLES, **pause.variables}
    command = [*mpirun(hosts, 2, "hosta:1,hostb:1", variables), *flags(directory)]
    with hosts.start("hosta", command, **variables) as process:
        pause.wait(process)
        began = time.monotonic()
        process.send(signal.SIGTERM)
        told(hosts, process)
        pause.go()
        status = process.wait(120)
    seconds = time.monotonic() - began
    no_workers(hosts, 10)
    train(hosts, [*command, "--resume"], **pause.variables)
    return f"status {status} after {seconds:.1f} s; resumed, {same_bits(hosts, directory, 2)}"


@case("mpi-mistake", "a wrong flag with `--mpi`: one line, status 2", HOSTS, PACKAGES)
def mpi_mistake(hosts):
    directory = hosts.folder / "mpi-mistake"
    command = [*horovodrun(hosts, *TWO), *flags(directory, "--epsilon=-1")]
    with hosts.start("hosta", command, **VARIABLES) as process:
        return last_line(finish(process, 2, 120))


@case("mpi-kill", "a worker is killed, and `--restarts=1` with MPI", HOSTS, PACKAGES)
def mpi_kill(hosts):
    directory = hosts.folder / "mpi-kill"
    pause = Pause(hosts, "step", 1)
    command = [*horovodrun(hosts, *TWO, "--restarts=1"), *flags(directory)]
    variables = {**VARIABLES, **pause.variables, "TFADV_RESTART_SECONDS": "1"}
    with hosts.start("hosta", command, **variables) as process:
        pause.wait(process)
        [worker] = hosts.workers("hostb")
        os.kill(worker, signal.SIGKILL)
        output = finish(process, 0)
    return f"{line_with(output, 'SIGKILL')}; {same_bits(hosts, directory, 2)}"


@case("mpi-hang", "a worker on another host freezes: the watchdog names it", HOSTS, PACKAGES)
def mpi_hang(hosts):
    directory = hosts.folder / "mpi-hang"
    pause = Pause(hosts, "step", 1)
    command = [
        *horovodrun(hosts, *TWO),
        *flags(directory, "--stall_seconds=90"),
    ]  # compilation on busy cores
    with hosts.start("hosta", command, **{**VARIABLES, **pause.variables}) as process:
        pause.wait(process)
        began = time.monotonic()
        for worker in hosts.workers("hostb"):
            os.kill(worker, signal.SIGSTOP)
        output = finish(process, 1, 240)
        seconds = time.monotonic() - began
    no_workers(hosts, 20)
    return f"after {seconds:.0f} s: {line_with(output, 'no worker made progress', 'hostb')}"
