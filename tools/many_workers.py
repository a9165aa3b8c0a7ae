"""Trains a few steps on 32 real workers of this machine and checks that they agree to the bit.

    make workers32
    python tools/many_workers.py [workers] [flags of tfadv.train]

It runs tfadv.train under horovodrun, with mixture batch normalization and running statistics in the
last epoch. After every epoch each worker writes a digest of its state: weights, moving statistics,
the optimizer's variables. The digests of all workers must be equal, and change from epoch to epoch;
otherwise the status is 1. It takes some minutes, and half a gigabyte a worker.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, STEPS = 3, 2


def flags(workers):
    """Returns the flags of a run in which each worker has two images a step."""
    return f"""
        --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=mbn --num_steps=2
        --epsilon=80 --step_size=10 --epochs={EPOCHS} --steps_per_epoch={STEPS}
        --running_statistics=1 --batch_size={2 * workers} --images_per_worker=2 --learning_rate=0.2
        --warmup_epochs=0 --decay_epochs=2 --eval_num_steps= --strong_eval_num_steps=
        --image_pairs=0
    """.split()


def worker():
    """Runs tfadv.train as one worker, with a digest after every epoch."""
    import keras

    from tfadv import launcher
    from tfadv.programs import building, start

    path = Path(os.environ["TFADV_DIGESTS"], str(launcher.rank()))

    class Digest(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            digest = hashlib.sha256()
            for variable in self.model.variables + self.model.optimizer.variables:
                digest.update(variable.numpy().tobytes())
            memory = Path("/proc/self/smaps_rollup").read_text().split()
            own = int(memory[memory.index("Pss:") + 1]) / 1024  # with its share of shared memory
            with open(path, "a") as file:
                file.write(f"{digest.hexdigest()} {own:.0f}\n")

    callbacks = building.training_callbacks
    building.training_callbacks = lambda *arguments: [*callbacks(*arguments), Digest()]
    start.run("train", sys.argv[1:])


def main(arguments):
    workers = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else 32
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tfadv-workers-") as folder:
        digests = Path(folder, "digests")
        digests.mkdir()
        environment = {
            **os.environ,
            **threads,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "HOROVOD_GLOO_TIMEOUT_SECONDS": "1200",  # they are ready minutes apart
            "TFADV_DIGESTS": str(digests),
        }
        launcher = [Path(sys.executable).parent / "horovodrun", "-np", str(workers), "--gloo"]
        launcher += ["-H", f"localhost:{workers}", "--start-timeout", "1200"]
        # Without `env --` horovodrun takes --network for an abbreviation of its own options.
        program = ["env", "--", sys.executable, Path(__file__).resolve()]
        run = [*flags(workers), f"--run_dir={folder}/run", *arguments]
        status = subprocess.call([*launcher, *program, *run], env=environment, cwd=ROOT)
        files = [
            [line.split() for line in path.read_text().splitlines()] for path in digests.iterdir()
        ]
    if status or len(files) != workers:
        print(f"workers: status {status}, {len(files)} of {workers} trained", file=sys.stderr)
        return 1
    epochs = [{digest for digest, _ in lines} for lines in zip(*files, strict=True)]
    memory = sum(int(lines[-1][1]) for lines in files) / 1024
    print(
        f"{workers} workers, {STEPS * len(epochs)} updates, {time.monotonic() - began:.0f} s, "
        f"{memory:.1f} GB together\ndifferent digests after each epoch: {list(map(len, epochs))}"
    )
    agree = all(len(each) == 1 for each in epochs)
    return 0 if agree and len(set().union(*epochs)) == len(epochs) else 1


if __name__ == "__main__":
    if "TFADV_DIGESTS" in os.environ:
        worker()
    else:
        sys.exit(main(sys.argv[1:]))
