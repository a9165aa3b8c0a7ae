"""Small trainings on hosts, and how they compare with one that stayed on one machine."""

import itertools
import json
import shutil
import signal
import sys
import time
from pathlib import Path

from launcher import caught

from machines.hosts import ROOT, Failure, Hosts, Process, last_line

HOROVODRUN = str(Path(sys.executable).parent / "horovodrun")
RUN_HOROVOD = str(ROOT / "run_horovod.sh")
WORKERS = 4
# Mixture batch normalization, an evaluation after each epoch, and a checkpoint within an epoch
# whenever a fifth of a second has passed. Fewer workers accumulate steps.
FLAGS = f"""
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=mbn --epsilon=80
    --step_size=10 --num_steps=2 --epochs=2 --steps_per_epoch=4
    --batch_size={4 * WORKERS} --images_per_worker=4 --learning_rate=2 --warmup_epochs=0
    --decay_epochs=1 --eval_num_steps=2 --eval_every=1 --eval_limit={4 * WORKERS}
    --strong_eval_num_steps= --image_pairs=1 --checkpoint_minutes=0.003
""".split()
# Workers of all hosts share this machine's cores.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "TF_DETERMINISTIC_OPS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "2",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
}
SECONDS = 1200  # for any one training, on cores that are busy

# moment -> the module, the function in it, at which of its calls, and in which worker
MOMENTS = {
    "step": ("tfadv.callbacks.adversarial_training", "AdversarialTraining.on_train_batch_begin", 7),
    "checkpoint": ("tfadv.training.checkpoints", "write", 3),
    "evaluation": ("tfadv.evaluation.evaluator", "Evaluator.__call__", 2),
}


def flags(directory: Path, *more: str) -> list[str]:
    """Returns the flags of a training."""
    return [*FLAGS, f"--run_dir={directory}", *more]


def program(directory: Path, *more: str) -> list[str]:
    """Returns the command of a training for horovodrun, to stand after its options."""
    # Without `env --` horovodrun takes --network for an abbreviation of its own options.
    return ["env", "--", sys.executable, "-m", "tfadv.train", *flags(directory, *more)]


def run(hosts: Hosts, name: str, command: list[str], **variables: str) -> str:
    """Runs a command on a host; returns its output, or raises `Failure` unless it succeeds."""
    with hosts.start(name, command, **{**ENVIRONMENT, **variables}) as process:
        return finish(process, 0)


def finish(process: Process, expected: int, seconds: float = SECONDS) -> str:
    """Waits for the end of a command; returns its output, if it ends with the expected status."""
    try:
        status = process.wait(seconds)
        if status != expected:
            line = last_line(process.output)
            raise Failure(f"status {status} instead of {expected}; the last line: {line}")
    except Failure:
        show(process.output)
        raise
    return process.output


def show(output: str) -> None:
    """Prints the end of a failed command's output."""
    print("\n".join(f"    | {line}" for line in output.splitlines()[-40:]), flush=True)


def line_with(output: str, *words: str) -> str:
    """Returns the first line of an output that holds all words, or raises `Failure`."""
    for line in output.splitlines():
        if all(word in line for word in words):
            return line.strip()
    show(output)
    raise Failure(f"no line with {' and '.join(map(repr, words))}; the last: {last_line(output)}")


class Pause:
    """Stops a worker at a moment of `MOMENTS`, once.

    Attributes:
        variables: Environment variables for the training.
    """

    _count = itertools.count(1)

    def __init__(self, hosts: Hosts, moment: str, rank: int):
        number = next(self._count)
        self.moment = moment
        self.reached, self._go = (hosts.folder / f"{name}-{number}" for name in ("reached", "go"))
        module, function, count = MOMENTS[moment]
        pause = {"module": module, "function": function, "count": count, "rank": str(rank)}
        pause |= {"reached": str(self.reached), "go": str(self._go)}
        folder = Path(__file__).with_name("pause")
        self.variables = {"PYTHONPATH": f"{folder}:{ROOT}", "TFADV_PAUSE": json.dumps(pause)}

    def wait(self, process: Process) -> None:
        """Waits until the worker is there, and the other workers most likely wait for it."""
        process.wait_until(self.reached.exists, f"the moment: {self.moment}", SECONDS)
        time.sleep(2)

    def go(self) -> None:
        self._go.touch()


def reference(hosts: Hosts, workers: int = WORKERS) -> Path:
    """Returns the directory of an undisturbed run of all workers on one host; it runs once."""
    directory = hosts.folder / f"one-machine-{workers}"
    if not (directory / "model.keras").exists():
        command = [HOROVODRUN, "-np", str(workers), "--gloo", *program(directory)]
        run(hosts, hosts.names[0], command)
    return directory


def same_bits(hosts: Hosts, directory: Path, workers: int = WORKERS) -> str:
    """Compares a run with `reference`; returns the count of bits, or raises `Failure`."""
    import chaos  # imports TensorFlow

    expected = reference(hosts, workers)
    compared = chaos.compare(directory, expected)
    if compared["differences"]:
        raise Failure(
            f"{len(compared['differences'])} differences from one machine, the first: "
            f"{compared['differences'][0]}"
        )
    shutil.rmtree(directory)
    return f"0 of {compared['bits']:,} bits differ from {workers} workers on one machine"


def stopped_and_resumed(
    hosts: Hosts, name: str, directory: Path, command: list[str], **variables: str
) -> str:
    """Stops a training of two workers in an update, resumes it, and compares it with `reference`.

    Args:
        hosts: The hosts.
        name: The host on which the command runs, and receives SIGTERM.
        directory: Directory of the run.
        command: The command, to which `--resume` is added for the second time.
        **variables: More environment variables than `ENVIRONMENT`.

    Returns:
        One line about the checkpoint and the bits.
    """
    variables = {**ENVIRONMENT, **variables}
    pause = Pause(hosts, "step", 1)
    with hosts.start(name, command, **{**variables, **pause.variables}) as process:
        pause.wait(process)
        process.send(signal.SIGTERM)
        told(hosts, process)
        pause.go()
        output = finish(process, 75, 300)
    no_workers(hosts, 120)
    saved = Path(line_with(output, "stopped by SIGTERM").split()[-1]).name
    run(hosts, name, [*command, "--resume"], **variables)
    return f"status 75 after {saved}; resumed, {same_bits(hosts, directory, 2)}"


def told(hosts: Hosts, process: Process) -> None:
    """Waits until a worker has received a signal to stop, which may have a way by ssh before it."""
    workers = [pid for name in hosts.names for pid in hosts.workers(name)]

    def received():  # it catches no second one, which is to end it
        return any(signal.SIGTERM not in caught(pid) for pid in workers)

    process.wait_until(received, "a worker with the signal", 120)


def no_workers(hosts: Hosts, seconds: float = 0) -> None:
    """Raises `Failure` if a worker still runs on any host after some seconds."""
    until = time.monotonic() + seconds
    while left := [f"{pid} on {name}" for name in hosts.names for pid in hosts.workers(name)]:
        if time.monotonic() > until:
            raise Failure(f"workers that did not end: {', '.join(left)}")
        time.sleep(0.2)
