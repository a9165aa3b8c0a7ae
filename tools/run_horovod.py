"""Runs tfadv.train or tfadv.evaluate on several workers.

    ./run_horovod.sh -np N [options of horovodrun] [flags of the program]
    ./run_horovod.sh -np N --program evaluate [options of horovodrun] [flags of the program]

The options of horovodrun (-H, --hostfile, --network-interfaces, --mpi, ...; see
`horovodrun --help`) and the flags of the program (see `python -m tfadv.train --help`) may stand in
any order; everything after `--` is the program's. `horovodrun -np N python -m tfadv.train ...` does
the same work. This script also

- checks the flags once, before it launches anything,
- shares this machine's cores among the workers where there is no GPU,
- shows rank 0's output as if it ran alone, and only one line of horovodrun's own on failure,
- passes Ctrl-C and SIGTERM on to the workers and gives them time to write a checkpoint
  (TFADV_GRACE_SECONDS, 600 by default; a second signal stops them at once),
- exits with the workers' status: 2 for a user's mistake, 75 for a training that was stopped after
  a checkpoint and wants --resume, 128+n after signal n that left no time for one,
- and with --restarts=N starts a training up to N times again, from its newest checkpoint, when it
  fails or when only one of its workers was told to stop. It waits 10 s before the first restart
  (TFADV_RESTART_SECONDS) and twice as long before each further one, up to 10 minutes. It gives up
  early after a user's mistake, or when the same error, not a signal, ended the training twice at
  the same place.
  (Write the attack's own --restarts, those of an image, after `--` or into a flagfile.)
"""

import argparse
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

from launcher import Launch, supervise

PROGRAMS = ("train", "evaluate")
MISSING = "horovodrun is missing: run `make setup`"


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
        """Returns the value given under any of an option's names; None if there is none."""
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

    @property
    def machines(self) -> list[str]:
        """The names of the workers' machines, in the order of the ranks; empty if it is this one.

        It is also empty where they are not given by name.
        """
        hosts = self.value("-H", "--hosts")
        if self.local or hosts is None:
            return []
        pairs = [host.strip().partition(":") for host in hosts.split(",")]
        slots = [(name, int(count) if count.isdecimal() else 1) for name, _, count in pairs]
        return [name for name, count in slots for _ in range(count)]


def horovodrun_options() -> dict[str, int]:
    """Returns horovodrun's options and how many values each takes, from horovodrun's own parser."""
    try:
        from horovod.runner import launch
    except ImportError:
        raise UsageError(MISSING) from None

    class ParserBuilt(Exception):
        pass

    def stop(parser):
        raise ParserBuilt(parser)

    parse_args = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = stop
    try:
        launch.parse_args()
    except ParserBuilt as built:
        [parser] = built.args
    finally:
        argparse.ArgumentParser.parse_args = parse_args
    return {
        option: 1 if action.nargs is None else action.nargs
        for action in parser._actions
        for option in action.option_strings
        if option not in ("-h", "--help", "-v", "--version")  # absl has these too
    }


def parse(arguments: list[str]) -> Request:
    """Separates horovodrun's options from the program's flags.

    Args:
        arguments: The command line, without the script's name.

    Raises:
        UsageError: If an option lacks its value, or a value is wrong.
    """
    counts = {**horovodrun_options(), "--program": 1, "--restarts": 1}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest, last = arguments[:end], arguments[end + 1 :]
    words = []  # (option of `counts` or None, its values, the arguments that say so)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        count = counts.get(name)
        if count is None:
            words.append((None, [], [argument]))
            continue
        values = [value] if equals else rest[:count]
        if len(values) < count or (equals and count != 1):
            raise UsageError(f"{name} takes {count} value(s); received {argument}")
        words.append((name, values, [argument] if equals else [argument, *values]))
        if not equals:
            del rest[:count]

    request = Request()
    request.program = next((v[0] for n, v, _ in reversed(words) if n == "--program"), "train")
    if request.program not in PROGRAMS:
        raise UsageError(f"--program must be {' or '.join(PROGRAMS)}; received {request.program}")
    for name, values, said in words:
        if name == "--restarts" and request.program == "train":
            if not values[0].isdecimal():
                raise UsageError(f"--restarts must be a whole number from 0; received {values[0]}")
            request.restarts = int(values[0])
        elif name in (None, "--restarts"):  # those of an evaluation are its attack's
            request.flags += said
        elif name != "--program":
            request.values[name] = values[0] if values else ""
            request.options += said
    request.flags += last
    return request


def thread_variables(num_workers: int, environment: dict[str, str]) -> dict[str, str]:
    """Returns each worker's share of this machine's cores, as variables that the user left unset.

    Without them every worker would start as many threads as there are cores.
    """
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if glob.glob("/dev/nvidia[0-9]*") and not hidden:
        return {}
    share = max(1, len(os.sched_getaffinity(0)) // num_workers)
    # Parallel operations wait rather than compute, and one that waits must not block the others.
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
        only_checks_build = request.value("-cb", "--check-build") is not None
        num_workers = 0 if only_checks_build else request.num_workers
        if horovodrun is None:
            raise UsageError(MISSING)
    except UsageError as error:
        print(f"run_horovod.sh: {error}", file=sys.stderr)
        return 2
    if only_checks_build:
        return subprocess.call([horovodrun, *request.options])

    with tempfile.TemporaryDirectory(prefix="tfadv-") as folder:
        status_file = Path(folder, "status")
        run_file = Path(folder, "run")
        run_file.touch()
        launch = Launch(status_file)
        program = [sys.executable, "-m", f"tfadv.{request.program}"]
        # Flags that are right for one worker may be wrong for many.
        checked = dict(os.environ, HOROVOD_SIZE=str(num_workers), TFADV_RUN_FILE=str(run_file))
        # Last, because the flags of a run, as its flags.txt has them, say --check=false.
        status = launch.check([*program, *request.flags, "--check"], checked)
        if status:
            return status

        mpi = request.value("--mpi", "--jsrun") is not None
        launch.machines = request.machines
        environment = dict(os.environ, TFADV_STATUS_FILE=str(status_file))
        # By default 30 s, in which many workers may not have imported TensorFlow yet.
        environment.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
        if request.local:
            environment |= thread_variables(num_workers, environment)
        # A worker writes to a pipe and cannot know the width. mpirun lets no line be rewritten.
        if sys.stdout.isatty() and not mpi:
            environment["TFADV_COLUMNS"] = str(shutil.get_terminal_size().columns)
        controller = [] if mpi or "--gloo" in request.values else ["--gloo"]
        marked = ("--verbose", "-prefix-timestamp", "--prefix-output-with-timestamp")
        # Without `--` horovodrun takes --network for an abbreviation of two options of its own.
        verbatim = ["env", "--", *program]
        run_directory = run_file.read_text()

        def start(again: bool) -> int:
            flags = [f"--run_dir={run_directory}", "--resume"] if again else []
            # A worker may still be ending when its launcher has already ended.
            waits = {"TFADV_LOCK_SECONDS": "60"} if again else {}
            return launch.run(
                [horovodrun, *request.options, *controller, *verbatim, *request.flags, *flags],
                environment | waits,
                raw=request.value(*marked) is not None,
                # mpirun marks what follows a line's end, horovodrun carriage returns too.
                ends=b"\n" if mpi else b"\r\n",
            )

        return supervise(start, launch, run_directory, request.restarts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
