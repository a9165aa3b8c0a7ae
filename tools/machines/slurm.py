"""Trainings that a real Slurm starts: a controller and a daemon on each host."""

import functools
import os
import re
import signal
import time
from pathlib import Path

from machines.cases import case
from machines.hosts import Failure, Hosts, last_line
from machines.trainings import (
    ENVIRONMENT,
    SECONDS,
    Pause,
    flags,
    line_with,
    no_workers,
    same_bits,
    show,
)

HOSTS = ("hosta", "hostb")
PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge"}

CONFIGURATION = """
ClusterName=tfadv
SlurmctldHost=hosta(10.99.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=20
SlurmctldPort=6817
SlurmdPort=6818
StateSaveLocation={folder}/state
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir=/run/slurmd
SlurmctldDebug=debug
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%h.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=60
NodeName=hosta NodeAddr=10.99.0.1 CPUs=2 RealMemory=1000
NodeName=hostb NodeAddr=10.99.0.2 CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\n"


@functools.cache
def cluster(hosts):
    """Starts the daemons; returns the variables with which Slurm's commands find them."""
    folder = hosts.folder / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder))
    (folder / "cgroup.conf").write_text(CGROUPS)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    for name in HOSTS:
        hosts.call(name, "mkdir", "-p", "-m", "755", "/run/munge")
        options = ["--key-file", str(key), "--log-file", "/run/munge/log"]
        options += ["--seed-file", "/run/munge/seed", "--pid-file", "/run/munge/pid"]
        # It does not like that others can write to /var/tmp, where the key stands.
        hosts.start(name, ["munged", "--foreground", "--force", *options])
        hosts._wait(lambda name=name: hosts.run(name, ["munge", "--no-input"])[0] == 0)
    hosts.start("hosta", ["slurmctld", "-D", "-f", variables["SLURM_CONF"]])
    for name in HOSTS:
        hosts.start(name, ["slurmd", "-D", "-f", variables["SLURM_CONF"]])

    def idle():
        status, output = hosts.run("hosta", ["sinfo", "-h", "-o", "%D %t"], **variables)
        return status == 0 and output.strip() == f"{len(HOSTS)} idle"

    hosts._wait(idle)
    return variables


class Job:
    """A training that is submitted to two nodes, with two tasks on each."""

    ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def __init__(self, hosts: Hosts, directory: Path, *options: str, more=(), **variables: str):
        self.hosts = hosts
        self.variables = {**ENVIRONMENT, **variables, **cluster(hosts)}
        shape = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0"]
        log = f"--output={hosts.folder}/slurm-%j.log"
        submit = ["sbatch", "--parsable", *shape, log, *options, "tools/slurm.sbatch"]
        self.number = self.slurm(*submit, *flags(directory, *more)).strip()
        self.path = hosts.folder / f"slurm-{self.number}.log"

    def slurm(self, *command: str) -> str:
        """Runs one of Slurm's commands; returns its output."""
        status, output = self.hosts.run("hosta", list(command), **self.variables)
        if status:
            raise Failure(f"{command[0]}: {last_line(output)}")
        return output

    def shown(self, name: str) -> str:
        """Returns what Slurm says about the job under a name, such as `JobState`."""
        return re.search(rf"\b{name}=(\S+)", self.slurm("scontrol", "show", "job", self.number))[1]

    @property
    def log(self) -> str:
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def wait_for(self, condition, name: str, seconds: float = SECONDS) -> None:
        """Waits until a function returns true; fails if the job ends before."""
        until = time.monotonic() + seconds
        while not condition():
            state = self.shown("JobState")
            if (state in self.ENDS and not condition()) or time.monotonic() > until:
                show(self.log)
                raise Failure(f"no {name}, and the job is {state}: {last_line(self.log)}")
            time.sleep(0.5)

    def wait(self, state: str = "COMPLETED", status: str = "0:0") -> None:
        """Waits for the end of the job, which must be the expected one."""
        self.wait_for(lambda: self.shown("JobState") in self.ENDS, "end")
        seen = f"{self.shown('JobState')} {self.shown('ExitCode')}"
        if seen != f"{state} {status}":
            show(self.log)
            raise Failure(f"the job is {seen}, not {state} {status}: {last_line(self.log)}")
        no_workers(self.hosts, 10)

    def start_again(self, *changes: str) -> None:
        """Lets a requeued job start at once, not after the pause that Slurm makes."""
        self.wait_for(lambda: self.shown("JobState") == "PENDING", "requeue")
        update = ["scontrol", "update", f"JobId={self.number}"]
        # While its last processes end, it cannot be changed.
        self.wait_for(
            lambda: (
                self.hosts.run("hosta", [*update, "StartTime=now", *changes], **self.variables)[0]
                == 0
            ),
            "change",
            120,
        )


@case(
    "slurm-nodes",
    "`sbatch tools/slurm.sbatch` on two nodes: the bits of one machine",
    HOSTS,
    PACKAGES,
)
def slurm(hosts):
    directory = hosts.folder / "slurm-run"
    Job(hosts, directory).wait()
    return same_bits(hosts, directory)


@case("slurm-mistake", "a flag is refused before `srun`; one line, status 2", HOSTS, PACKAGES)
def slurm_mistake(hosts):
    job = Job(hosts, hosts.folder / "slurm-mistake", more=["--epsilon=-1"])
    job.wait("FAILED", "2:0")
    if len(job.log.splitlines()) != 1:
        raise Failure(f"{len(job.log.splitlines())} lines for one mistake: {job.log}")
    return last_line(job.log)


def stopped(hosts, name, stop, *options):
    """Stops a job at an update by `stop`, and lets it go on."""
    directory = hosts.folder / name
    pause = Pause(hosts, "step", 1)
    job = Job(hosts, directory, *options, **pause.variables)
    job.wait_for(pause.reached.exists, "update")
    time.sleep(2)  # the other workers most likely wait for that one
    stop(job)
    pause.go()
    began = time.monotonic()
    job.wait_for(lambda: "stopped by SIGTERM" in job.log, "checkpoint")
    saved = Path(line_with(job.log, "stopped by SIGTERM").split()[-1]).name
    job.start_again("TimeLimit=60")
    seconds = time.monotonic() - began
    job.wait()
    if job.shown("Restarts") != "1":
        raise Failure(f"it was started again {job.shown('Restarts')} times")
    return f"requeued {seconds:.0f} s later, after {saved}; {same_bits(hosts, directory)}"


@case("slurm-stop", "`scancel --signal=TERM`: a checkpoint, requeued, goes on", HOSTS, PACKAGES)
def slurm_stop(hosts):
    return stopped(
        hosts, "slurm-stop", lambda job: job.slurm("scancel", "--signal=TERM", job.number)
    )


@case("slurm-limit", "before the time limit: a checkpoint, requeued, goes on", HOSTS, PACKAGES)
def slurm_limit(hosts):
    def reach_limit(job):
        # As if the job had run so long: the signal comes 600 s before the limit.
        job.slurm("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
        job.wait_for(
            lambda: "warning signal" in (hosts.folder / "slurm/slurmctld.log").read_text(), "signal"
        )

    return stopped(hosts, "slurm-limit", reach_limit, "--time=60")


@case("slurm-cancel", "`scancel`: the job ends and is not started again", HOSTS, PACKAGES)
def slurm_cancel(hosts):
    directory = hosts.folder / "slurm-cancel"
    pause = Pause(hosts, "step", 1)
    job = Job(hosts, directory, **pause.variables)
    job.wait_for(pause.reached.exists, "update")
    job.slurm("scancel", job.number)
    pause.go()
    job.wait_for(lambda: job.shown("JobState") == "CANCELLED", "cancellation")
    no_workers(hosts, 90)
    if job.shown("JobState") != "CANCELLED":
        raise Failure(f"the job is {job.shown('JobState')}")
    return f"cancelled, and no worker is left: {last_line(job.log)}"


@case(
    "slurm-kill",
    "a worker on the other node is killed: the job fails, and says so",
    HOSTS,
    PACKAGES,
)
def slurm_kill(hosts):
    directory = hosts.folder / "slurm-kill"
    pause = Pause(hosts, "step", 1)
    job = Job(hosts, directory, **pause.variables)
    job.wait_for(pause.reached.exists, "update")
    began = time.monotonic()
    os.kill(min(hosts.workers("hostb")), signal.SIGKILL)
    pause.go()
    job.wait_for(lambda: job.shown("JobState") == "FAILED", "failure", 120)
    seconds = time.monotonic() - began
    no_workers(hosts, 10)
    return f"after {seconds:.0f} s: {line_with(job.log, 'srun', 'Killed')}"
