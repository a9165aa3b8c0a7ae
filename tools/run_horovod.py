"""Runs tfadv.train or tfadv.evaluate on several workers.

    ./run_horovod.sh -np N [options of horovodrun] [flags of the program]
    ./run_horovod.sh -np N --program evaluate [options of horovodrun] [flags of the program]

The options of horovodrun (-H, --hostfile, --network-interfaces, --mpi, ...; `horovodrun --help`)
and the program's flags (`python -m tfadv.train --help`) may stand in any order; whatever follows
`--` is the program's. `horovodrun -np N python -m tfadv.train ...` does the same work. This only

- checks the flags once, before it launches anything,
- shares this machine's cores among the workers where there is no GPU,
- shows rank 0's output as if it ran alone, and nothing of horovodrun's own on failure but one line,
- passes Ctrl-C and SIGTERM on to the workers and gives them time to write a checkpoint
  (TFADV_GRACE_SECONDS, 600 by default; a second signal ends them at once),
- ends with the workers' exit status: 2 for a user's mistake, 75 for a training that was stopped
  behind a checkpoint and wants --resume, 128+n after signal n that left no time for one,
- and with --restarts=N starts a training up to N times again, from its newest checkpoint, when it
  fails or one of its workers alone was told to stop. It waits 10 s before the first time
  (TFADV_RESTART_SECONDS) and twice as long before each further one, up to 10 minutes; and gives
  up before N when the same error, not a signal, ended it twice at the same place, or the mistake
  is the user's.
  (The attack's own --restarts, of an image, goes behind `--` or into a flagfile.)
"""

import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import restarts
from launcher import Launch

PROGRAMS = ("train", "evaluate")

# horovodrun's options and how many values each takes. One missing here would go to the program,
# which then calls it an unknown flag; behind `--`, one of the program's own by the same name does.
OPTIONS = dict.fromkeys(
    """-cb --check-build --disable-cache --verbose --hierarchical-allreduce
    --no-hierarchical-allreduce --hierarchical-allgather --no-hierarchical-allgather
    --torus-allreduce --no-torus-allreduce --autotune --no-autotune --timeline-mark-cycles
    --no-timeline-mark-cycles --no-stall-check --stall-check --mpi-threads-disable
    --no-mpi-threads-disable --tcp --log-with-timestamp --log-without-timestamp
    --log-hide-timestamp --no-log-hide-timestamp
    -prefix-timestamp --prefix-output-with-timestamp --gloo --mpi --jsrun""".split(),
    0,
)
OPTIONS |= dict.fromkeys(
    """-np --num-proc --start-timeout --network-interfaces --network-interface --output-filename
    --config-file -p --ssh-port -i --ssh-identity-file --fusion-threshold-mb --cycle-time-ms
    --cache-capacity --autotune-log-file --autotune-warmup-samples --autotune-steps-per-sample
    --autotune-bayes-opt-max-samples --autotune-gaussian-process-noise --min-np --min-num-proc
    --max-np --max-num-proc --slots-per-host --elastic-timeout --reset-limit --timeline-filename
    --stall-check-warning-time-seconds --stall-check-shutdown-time-seconds --mpi-args
    --binding-args --num-nccl-streams --thread-affinity --gloo-timeout-seconds --log-level
    -H --hosts -hostfile --hostfile --host-discovery-script""".split(),
    1,
)
OPTIONS["--blacklist-cooldown-range"] = 2


class UsageError(Exception):
    """A user's mistake on this command line."""


@dataclass
class Request:
    """A command line, taken apart."""

    program: str = "train"
    options: list[str] = field(default_factory=list)  # horovodrun's
    flags: list[str] = field(default_factory=list)  # the program's
    values: dict[str, str] = field(default_factory=dict)  # option -> its last value, or ""
    restarts: int = 0

    def value(self, *names: str) -> str | None:
        """The value given under any of an option's names; None where it was not given."""
        return next((self.values[name] for name in names if name in self.values), None)

    @property
    def num_workers(self) -> int:
        text = self.value("-np", "--num-proc")
        if text is None:
            raise UsageError("-np, the number of workers, is missing, as in -np 2")
        if not re.fullmatch(r"0*[1-9]\d*", text):
            raise UsageError(f"-np must be a whole number from 1; received {text}")
        return int(text)

    @property
    def local(self) -> bool:
        """Whether all workers run on this machine."""
        elsewhere = ("-hostfile", "--hostfile", "--host-discovery-script", "--config-file")
        if self.value(*elsewhere) is not None:
            return False
        hosts = (self.value("-H", "--hosts") or "localhost").split(",")
        names = {"localhost", "127.0.0.1", socket.gethostname()}
        return all(host.split(":")[0] in names for host in hosts)


def parse(arguments: list[str]) -> Request:
    """Tells horovodrun's options from the program's flags.

    Args:
        arguments: The command line, without the script's name.

    Raises:
        UsageError: An option lacks its value, or the program is unknown.
    """
    request = Request()
    rest, restarting = list(arguments), []
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            request.flags += rest
            break
        name, equals, value = argument.partition("=")
        arity = 1 if name in ("--program", "--restarts") else OPTIONS.get(name)
        if arity is None:
            request.flags.append(argument)
            continue
        values = [value] if equals else rest[:arity]
        if len(values) < arity or (equals and arity != 1):
            raise UsageError(f"{name} takes {arity} value(s); received {argument}")
        if not equals:
            del rest[:arity]
        if name == "--program":
            if values[0] not in PROGRAMS:
                raise UsageError(f"--program must be {' or '.join(PROGRAMS)}; received {values[0]}")
            request.program = values[0]
            continue
        if name == "--restarts":
            restarting.append(len(request.flags))
            request.flags.append(f"--restarts={values[0]}")
            continue
        request.values[name] = values[0] if values else ""
        request.options += [argument] if equals else [argument, *values]
    if request.program == "train" and restarting:  # those of an evaluation are its attack's
        text = [request.flags.pop(place) for place in reversed(restarting)][0].partition("=")[2]
        if not text.isdecimal():
            raise UsageError(f"--restarts must be a whole number from 0; received {text}")
        request.restarts = int(text)
    return request


def thread_variables(num_workers: int, environment: dict[str, str]) -> dict[str, str]:
    """Each worker's share of this machine's cores, for those variables that the user left unset.

    Without it every worker would start as many threads as there are cores.
    """
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if glob.glob("/dev/nvidia[0-9]*") and not hidden:
        return {}
    share = max(1, len(os.sched_getaffinity(0)) // num_workers)
    # Operations beside one another block rather than compute, and one that waits must not be all.
    wanted = {
        "OMP_NUM_THREADS": share,
        "TF_NUM_INTRAOP_THREADS": share,
        "TF_NUM_INTEROP_THREADS": max(2, share),
    }
    return {name: str(value) for name, value in wanted.items() if name not in environment}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    beside = Path(sys.executable).parent / "horovodrun"
    horovodrun = str(beside) if beside.exists() else shutil.which("horovodrun")
    try:
        request = parse(arguments)
        if request.value("-cb", "--check-build") is None:
            num_workers = request.num_workers
        if horovodrun is None:
            raise UsageError("horovodrun is missing: run `make setup`")
    except UsageError as error:
        print(f"run_horovod.sh: {error}", file=sys.stderr)
        return 2
    if request.value("-cb", "--check-build") is not None:
        return subprocess.call([horovodrun, *request.options])

    with tempfile.TemporaryDirectory(prefix="tfadv-") as folder:
        status_file = Path(folder, "status")
        run_file = Path(folder, "run")
        run_file.touch()
        launch = Launch(status_file)
        program = [sys.executable, "-m", f"tfadv.{request.program}"]
        # What is right for one worker may be wrong for many: the check is told how many there are.
        told = dict(os.environ, HOROVOD_SIZE=str(num_workers), TFADV_RUN_FILE=str(run_file))
        status = launch.check([*program, "--check", *request.flags], told)
        if status:
            return status

        mpi = request.value("--mpi", "--jsrun") is not None
        environment = dict(os.environ, TFADV_STATUS_FILE=str(status_file))
        # Horovod gives up after 30 s; workers that import TensorFlow side by side may take more.
        environment.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
        if request.local:
            environment |= thread_variables(num_workers, environment)
        if sys.stdout.isatty():  # a worker writes to a pipe and cannot see it
            environment["TFADV_COLUMNS"] = str(shutil.get_terminal_size().columns)
        controller = [] if mpi or "--gloo" in request.values else ["--gloo"]
        marked = ("--verbose", "-prefix-timestamp", "--prefix-output-with-timestamp")
        # Without `--` horovodrun takes --network for an abbreviation of two options of its own.
        verbatim = ["env", "--", *program]
        run_directory = run_file.read_text()

        def start(again: bool) -> int:
            flags = [f"--run_dir={run_directory}", "--resume"] if again else []
            # A worker may take its time to end after the launcher that waited for it.
            waits = {"TFADV_LOCK_SECONDS": "60"} if again else {}
            return launch.run(
                [horovodrun, *request.options, *controller, *verbatim, *request.flags, *flags],
                environment | waits,
                raw=request.value(*marked) is not None,
                ends=b"\n" if mpi else b"\r\n",  # mpirun marks lines, horovodrun returns too
            )

        return restarts.supervise(start, launch, run_directory, request.restarts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
