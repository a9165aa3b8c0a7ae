"""How many decoded, cropped and augmented images one core delivers, and how many a worker needs.

`python -m benchmarks.input`. The images are JPEGs of ImageNet's usual size, generated here. They
are read as `--dataset=image_folder` and ImageNet are, with the pipeline's augmentation.
"""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from benchmarks import measuring
from tfadv import attacks, data, models

ROUNDS = 5
BATCH = 32
BATCHES = 20  # in a turn
NUM_STEPS = 30  # the paper's
SHAPE = (375, 500, 3)  # a usual ImageNet image: 500 x 375 pixels, about 110 kB


def make_images(directory, count):
    """Writes JPEGs as detailed as photographs, which take as long to decode; returns their size."""
    rng = np.random.default_rng(0)
    for place in range(count):
        folder = directory / ("train" if place % 2 else "val") / f"class{place // 2 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = tf.image.resize(rng.uniform(0, 255, [24, 32, 3]), SHAPE[:2], "bicubic")
        noisy = tf.cast(tf.clip_by_value(coarse + rng.normal(0, 16, SHAPE), 0, 255), tf.uint8)
        file = folder / f"{place}.jpg"
        file.write_bytes(tf.io.encode_jpeg(noisy, quality=90).numpy())
    return file.stat().st_size


def one_core(dataset):
    """Returns the data set, with one thread for all its work."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.with_options(options)


def run(options):
    turns = measuring.rounds(options, ROUNDS)
    with tempfile.TemporaryDirectory() as directory:
        size = make_images(pathlib.Path(directory), 64)
        dataset = data.load("image_folder", directory, 224)
        kinds = {
            "training": dataset.train_batches(BATCH, BATCHES, seed=0),
            "evaluation": dataset.validation_batches(BATCH).repeat(),
        }

        def images_of(batches):
            def take():
                # A new iterator each time: what it prefetched during other turns would be free.
                for batch in one_core(batches).take(BATCHES):
                    batch[0].numpy()

            return take

        seconds = measuring.interleaved(
            {name: images_of(batches) for name, batches in kinds.items()}, turns, label="one core"
        )
    model = models.ResNet(50, num_classes=10, image_size=224)
    x, y = tf.zeros([4, 224, 224, 3]), tf.range(4)
    attack = attacks.PGD(num_steps=1)
    network = models.Frozen(model)
    step = measuring.interleaved(
        {"step": lambda: attack(network, x, y, value_range=(0, 255), seed=(0, 0)).numpy()},
        turns,
        label="one step of the attack",
    )["step"]
    rates = {
        name: measuring.spread([BATCHES * BATCH / each for each in values])
        for name, values in seconds.items()
    }
    # With all cores, and for the attack's steps alone: the update takes more time still.
    needed = 4 / (NUM_STEPS * measuring.spread(step)["median"])
    return {
        "settings": {"image": f"{SHAPE[1]} x {SHAPE[0]} pixels, {size} bytes", "size": 224},
        "results": [
            {"what": name, "images_per_second": rate, "needed": needed}
            for name, rate in rates.items()
        ],
        "attack_step_seconds": step,
    }


def table(report):
    rows = [
        [
            result["what"],
            measuring.in_words(result["images_per_second"], 0),
            f"{result['needed']:.2f}",
            f"{result['images_per_second']['median'] / result['needed']:.0f}",
        ]
        for result in report["results"]
    ]
    heading = ["images for", "a second, from one core", "needed by a worker here", "times enough"]
    return (
        measuring.markdown_table(heading, rows)
        + f"\nJPEGs of {report['settings']['image']}, resized to {report['settings']['size']} "
        f"pixels; ResNet-50 under PGD-{NUM_STEPS} needs them on this machine's cores. A GPU needs "
        "more: `python -m tfadv.plan` prints how many images a second a device trains on.\n"
    )


if __name__ == "__main__":
    measuring.main("input", run, table)
