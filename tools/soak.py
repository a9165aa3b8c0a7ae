"""Trains 2,000 steps with every callback of the program, and sees whether memory or files grow.

    make soak                                       (ARGS="--epochs=80 --norm=bn" for others)
    python tools/soak.py [flags of tfadv.train]

In one process, without a GPU. After a warm-up of 500 steps, in which functions are traced and pools
filled, the memory that the process holds must grow by less than 2%, from the mean over the second
quarter of the epochs to that over the last; and the files, sockets and threads that it has open at
the end of an epoch must be as many from then on. Status 1 if not.
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

# An epoch has all there is: two evaluations, images, statistics, checkpoints within and behind it.
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
        self.files.append(len(os.listdir("/proc/self/fd")) - 1)  # but that of the listing
        self.threads.append(len(os.listdir("/proc/self/task")))


def growth(values):
    """Of a list's mean, from its second quarter to its last, as a share."""
    quarter = len(values) // 4
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    return (sum(late) / len(late)) / (sum(early) / len(early)) - 1


def main(arguments):
    meter = Meter()
    callbacks = building.training_callbacks
    building.training_callbacks = lambda *given: [*callbacks(*given), meter]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tfadv-soak-") as folder:
        sys.argv = ["soak", *FLAGS, f"--run_dir={folder}/run", *arguments]
        start.run("train", sys.argv[1:])
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
    files = set(meter.files[quarter:])
    if grown >= MOST_GROWTH or len(files) > 1:
        print("soak: memory or open files grow", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.exit(main(sys.argv[1:]))
