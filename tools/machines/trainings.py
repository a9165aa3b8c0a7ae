"""Small trainings on hosts, and how they compare with one that stayed on one machine."""

import functools
import shutil
import sys
from pathlib import Path

from machines.hosts import ROOT, Failure, Hosts, last_line

HOROVODRUN = str(Path(sys.executable).parent / "horovodrun")
WORKERS = 4
# Mixture batch normalization, an evaluation after each epoch, and a checkpoint within an epoch
# whenever a fifth of a second has passed.
FLAGS = f"""
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=mbn --epsilon=80
    --step_size=10 --num_steps=2 --epochs=2 --steps_per_epoch=4 --running_statistics=1
    --batch_size={4 * WORKERS} --images_per_worker=4 --learning_rate=2 --warmup_epochs=0
    --decay_epochs=1 --eval_num_steps=2 --eval_every=1 --eval_limit={4 * WORKERS}
    --strong_eval_num_steps= --image_pairs=1 --checkpoint_minutes=0.003
""".split()
# Workers of all hosts share this machine's cores. Promised times are shortened for these tests.
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


def program(directory: Path, *flags: str, launcher: bool = True) -> list[str]:
    """Returns the command of a training, after a launcher's options."""
    # Without `env --` horovodrun takes --network for an abbreviation of its own options.
    start = ["env", "--"] if launcher else []
    return [*start, sys.executable, "-m", "tfadv.train", *FLAGS, f"--run_dir={directory}", *flags]


def run(hosts: Hosts, name: str, command: list[str], **variables: str) -> str:
    """Runs a command on a host; returns its output, or raises `Failure` unless it succeeds."""
    status, output = hosts.run(name, command, SECONDS, **{**ENVIRONMENT, **variables})
    if status:
        keep(hosts, output)
        raise Failure(f"status {status}: {last_line(output)}")
    return output


def keep(hosts: Hosts, output: str) -> None:
    """Prints the end of a failed command's output."""
    print("\n".join(f"    | {line}" for line in output.splitlines()[-40:]), flush=True)


@functools.cache
def reference(hosts: Hosts, workers: int = WORKERS) -> Path:
    """Returns the directory of an undisturbed run of all workers on one host; it is made once."""
    directory = hosts.folder / f"one-machine-{workers}"
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
