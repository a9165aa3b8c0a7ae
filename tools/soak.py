"""Trains 2,000 steps with every callback of the program and checks that memory does not grow.

    make soak                                       (ARGS="--epochs=80 --norm=bn" for others)
    python tools/soak.py [flags of tfadv.train]

It runs in one process without a GPU. After a warm-up of 500 steps, in which functions are traced
and pools filled, the memory of the process must grow by less than 2%, from the mean over the second
quarter of the epochs to that over the last; and the number of files and sockets that are open at
the end of an epoch must stay the same. Otherwise the status is 1.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import keras

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tfadv.programs import building, start  # noqa: E402 - the repository's own

MOST_GROWTH = 0.02

# Every epoch has two evaluations, images, statistics, and checkpoints within and after it.
FLAGS = """
    --dataset=digits --network=small_resnet --depth=8 --width=8 --norm=mbn
    --epsilon=80 --step_size=10 --num_steps=3 --epochs=40 --steps_per_epoch=50
    --batch_size=16 --images_per_worker=16 --learning_rate=0.2 --warmup_epochs=0
    --decay_epochs=30 --eval_num_steps=5 --eval_every=1 --eval_limit=50
    --strong_eval_num_steps=10 --strong_eval_every=1 --image_pairs=2 --checkpoint_minutes=0.02
""".split()


class Meter(keras.callbacks.Callback):
    """Measures this process at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.memory, self.files, self.threads = [], [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.steps.append(int(self.model.optimizer.iterations))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.files.append(len(os.listdir("/proc/self/fd")) - 1)  # without the listing's own
        self.threads.append(len(os.listdir("/proc/self/task")))


def growth(values):
    """Returns the relative growth of the mean from a list's second quarter to its last."""
    quarter = len(values) // 4
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    return (sum(late) / len(late)) / (sum(early) / len(early)) - 1


def main(arguments):
    meter = Meter()
    callbacks = building.training_callbacks
    building.training_callbacks = lambda *arguments: [*callbacks(*arguments), meter]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tfadv-soak-") as folder:
        start.run("train", [*FLAGS, f"--run_dir={folder}/run", *arguments])
    quarter = len(meter.steps) // 4
    grown = growth(meter.memory)
    print(f"{meter.steps[-1]} steps, {len(meter.steps)} epochs, {time.monotonic() - began:.0f} s")
    for name, values, unit in (
        ("memory", [round(value) for value in meter.memory], " MB"),
        ("open files", meter.files, ""),
        ("threads", meter.threads, ""),
    ):
        print(f"{name}: {' '.join(map(str, values))}{unit}")
    print(f"memory grew by {grown:.2%} after step {meter.steps[quarter - 1]}")
    if grown >= MOST_GROWTH or len(set(meter.files[quarter:])) > 1:
        print("soak: memory or open files grow", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.exit(main(sys.argv[1:]))
