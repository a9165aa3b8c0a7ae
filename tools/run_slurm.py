"""Runs tfadv.train or tfadv.evaluate as the tasks of a Slurm job.

    python tools/run_slurm.py [--program evaluate] [flags of the program]

Run it inside a batch job, such as tools/slurm.sbatch. `horovodrun` starts its workers over ssh,
which many clusters do not allow between nodes. Here `srun` starts them, one worker a task, and this
script only serves the addresses by which they find each other, as `horovodrun` does.

The flags are checked once, before `srun`. If a worker fails, the step ends (`--kill-on-bad-exit`).
SIGTERM, as a job receives it before its time limit (`sbatch --signal`) or from `scancel
--signal=TERM`, is passed on to the workers, which write a checkpoint and end with status 75. The
job is then requeued, unless it was cancelled or submitted with `--no-requeue`, and goes on from the
checkpoint, as it does when Slurm itself requeues it. Its comment holds the directory of the run.
SRUN_OPTIONS holds further options of `srun`. The workers communicate over the network interface
that leads to the job's first node, unless HOROVOD_GLOO_IFACE names another one.
"""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile

from launcher import RESUME, caught, newest, send, shell_status, workers
from run_horovod import PROGRAMS


def main(arguments):
    """Checks the flags, serves addresses and waits for `srun`, in the batch job itself."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    program = "train"
    if arguments and arguments[0] == "--program":
        program, arguments = (arguments[1:] or [""])[0], arguments[2:]
    if program not in PROGRAMS:
        return _mistake(f"--program must be {' or '.join(PROGRAMS)}; received {program!r}")
    if "SLURM_JOB_NODELIST" not in os.environ:
        return _mistake("this must run inside a Slurm job, from sbatch or salloc; there is none")
    nodes = _nodes(os.environ["SLURM_JOB_NODELIST"])
    counts = tasks_per_node(os.environ.get("SLURM_TASKS_PER_NODE", "1"))
    if len(counts) != len(nodes):
        return _mistake(f"the job has {len(nodes)} nodes and tasks for {len(counts)}")

    command = [sys.executable, "-m", f"tfadv.{program}"]
    folder = tempfile.TemporaryDirectory(prefix="tfadv-")
    status_file, run_file = pathlib.Path(folder.name, "status"), pathlib.Path(folder.name, "run")
    run_file.touch()
    checked = dict(os.environ, HOROVOD_SIZE=str(sum(counts)), TFADV_RUN_FILE=str(run_file))
    started_again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if program == "train" and started_again:
        known = _output("squeue", "--noheader", f"--jobs={_job()}", "--format=%k").strip()
        arguments = [
            *arguments,
            *([f"--run_dir={known}"] if os.path.isabs(known) else []),
            "--resume",
        ]
        # Workers of a node that failed may still be ending.
        os.environ.setdefault("TFADV_LOCK_SECONDS", "60")
    status = subprocess.call([*command, *arguments, "--check"], env=checked)
    if status:
        return status
    run = run_file.read_text()
    if run and not started_again:
        _output("scontrol", "update", f"JobId={_job()}", f"Comment={run}")
    before = newest(run)

    from horovod.runner.common.util import hosts
    from horovod.runner.http.http_server import RendezvousServer

    plan = hosts.get_host_assignments(
        hosts.parse_hosts(",".join(f"{n}:{c}" for n, c in zip(nodes, counts, strict=True))),
        sum(counts),
    )
    server = RendezvousServer()
    port = server.start()
    server.init(plan)
    environment = dict(
        os.environ,
        # Rank 0, which runs on this machine, reports its status there; `srun` has another one's.
        TFADV_STATUS_FILE=str(status_file),
        HOROVOD_GLOO_RENDEZVOUS_ADDR=address(nodes),
        HOROVOD_GLOO_RENDEZVOUS_PORT=str(port),
        HOROVOD_CONTROLLER="gloo",
        HOROVOD_CPU_OPERATIONS="gloo",
        PYTHONUNBUFFERED="1",
    )
    environment.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
    step = subprocess.Popen(
        [
            "srun",
            f"--ntasks={sum(counts)}",
            "--distribution=block",  # ranks in the order of the nodes, as in `plan`
            "--kill-on-bad-exit=1",
            *shlex.split(os.environ.get("SRUN_OPTIONS", "")),
            *[sys.executable, __file__, "--worker", ",".join(nodes), ",".join(map(str, counts))],
            *[*command, *arguments],
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        # Slurm signals the whole group of a batch script, and srun kills all tasks on SIGTERM.
        process_group=0,
    )
    signals = []

    def stop(number, frame):
        signals.append(number)
        if len(signals) > 1:
            step.terminate()
        # They tell the workers on the other nodes. Those that Slurm has signalled itself no longer
        # catch a signal: another one would end them at once.
        for process in workers(status_file):
            if number in caught(process):
                send(process, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    status = step.wait()
    with folder:
        reported = status_file.read_text() if status and status_file.exists() else ""
    status = int(reported) if reported.isdecimal() else shell_status(status)
    if status == RESUME and _may_be_requeued():
        # With a time limit that is too short for anything it would start for ever.
        if newest(run) == before:
            print(
                "run_slurm.py: the job is not requeued, since it wrote no checkpoint",
                file=sys.stderr,
            )
        else:
            _output("scontrol", "requeue", _job())  # ends the job, and with it this process
    return status


def worker(nodes, counts, command):
    """Tells Horovod which worker a task is, and becomes the program."""
    nodes, counts = nodes.split(","), [int(count) for count in counts.split(",")]
    rank, node = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NODEID"])
    local_rank = int(os.environ["SLURM_LOCALID"])
    if rank != sum(counts[:node]) + local_rank:
        sys.exit(f"run_slurm.py: task {rank} is not number {local_rank} of node {node}")
    sharing = [i for i, count in enumerate(counts) if count > local_rank]
    values = dict(
        HOSTNAME=nodes[node],
        RANK=rank,
        SIZE=sum(counts),
        LOCAL_RANK=local_rank,
        LOCAL_SIZE=counts[node],
        CROSS_RANK=sharing.index(node),
        CROSS_SIZE=len(sharing),
    )
    os.environ.update({f"HOROVOD_{name}": str(value) for name, value in values.items()})
    interface = _interface(os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"])
    os.environ.setdefault("HOROVOD_GLOO_IFACE", interface)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", os.environ["HOROVOD_GLOO_IFACE"])
    os.execvp(command[0], command)


def address(nodes):
    """Returns the address by which all nodes reach the first one, on which this runs."""
    first = socket.gethostbyname(nodes[0])
    # As Debian has it, a machine's own name stands for 127.0.1.1 there.
    if len(nodes) > 1 and first.startswith("127."):
        return _own_address(nodes[1])
    return first


def tasks_per_node(text):
    """Reads Slurm's "8(x3),4" as [8, 8, 8, 4]."""
    counts = []
    for part in text.split(","):
        count, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()
        counts += [int(count)] * int(times or 1)
    return counts


def _nodes(text):
    return _output("scontrol", "show", "hostnames", text).split()


def _job():
    return os.environ.get("SLURM_JOB_ID", "")


def _may_be_requeued():
    """Whether this is a batch job that nobody cancelled or wants to run only once."""
    job = _output("scontrol", "show", "job", _job()).split()
    return "JobState=RUNNING" in job and "Requeue=1" in job and "BatchFlag=0" not in job


def _output(*command):
    """Returns what a command of Slurm's prints; an error of its own is left to its message."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout


def _interface(address):
    """Returns the network interface by which this machine reaches an address."""
    import psutil

    mine = _own_address(address)
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.address == mine for each in addresses)
    )


def _own_address(other):
    """Returns this machine's address in the network through which it reaches another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # nothing is sent
        return probe.getsockname()[0]


def _mistake(message):
    print(f"run_slurm.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], sys.argv[4:])
    sys.exit(main(sys.argv[1:]))
