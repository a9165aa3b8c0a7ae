"""tfadv's batch normalizations beside Keras's, in one run: `python -m benchmarks.normalization`.

Each case is measured in rounds. In a round every contestant runs in turn, in an order that turns
around from round to round, and the ratio of their times is taken within the round, so that what
else the machine does falls on both. Before that, their results are compared.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from tfadv import layers, models

RESULTS = pathlib.Path(__file__).parent / "results"
ROUNDS = 21
SECONDS = 0.06  # about, of each contestant in each round
SHAPES = [
    (32, 56, 56, 64),  # a worker's 32 images in the four stages of a ResNet at 224 pixels
    (32, 28, 28, 128),
    (32, 14, 14, 256),
    (32, 7, 7, 512),
    (64, 32, 32, 16),  # small ResNets
    (64, 8, 8, 64),
    (256, 512),  # no image: no fused kernel
]
DTYPES = ["float32", "mixed_bfloat16"]
MIXTURE = "MixtureBatchNormalization beside two of Keras and slices"
MIXTURE_BY_SPLIT = "MixtureBatchNormalization beside two of Keras and tf.split"
SETTINGS = dict(momentum=0.9, epsilon=1e-5)


def halves_by_slices(x):
    return x[: x.shape[0] // 2], x[x.shape[0] // 2 :]


def halves_by_split(x):
    return tf.split(x, 2)


def contestants(shape, dtype):
    """Name of a comparison -> (ours, theirs): functions of images and `training`, and layers."""
    inputs = keras.Input(batch_shape=shape, dtype="float32")

    def made(layer):
        return keras.Model(inputs, layer(inputs))

    ours = made(layers.BatchNormalization(dtype=dtype, **SETTINGS))
    mixture = made(layers.MixtureBatchNormalization(dtype=dtype, **SETTINGS))
    theirs, adv, clean = (
        made(keras.layers.BatchNormalization(dtype=dtype, **SETTINGS)) for _ in range(3)
    )

    def mixed(x, training):
        return models.call(mixture, x, training, shape[0] // 2 if training else "adv")

    def pair(halves):
        def function(x, training):
            if not training:
                return adv(x, training=False)
            first, second = halves(x)
            return tf.concat([adv(first, training=True), clean(second, training=True)], axis=0)

        return function, [adv, clean]

    return {
        "BatchNormalization": (
            (lambda x, training: ours(x, training=training), [ours]),
            (lambda x, training: theirs(x, training=training), [theirs]),
        ),
        MIXTURE: ((mixed, [mixture]), pair(halves_by_slices)),
        MIXTURE_BY_SPLIT: ((mixed, [mixture]), pair(halves_by_split)),
    }


def training_step(function, parts, upstream):
    """Forward, moving statistics, and the gradients of images and parameters."""
    variables = [variable for part in parts for variable in part.trainable_variables]

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = function(x, True)
            loss = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
        return outputs, *tape.gradient(loss, [x, *(v.value for v in variables)])

    return step


def inference_gradient(function, parts, upstream):
    """What an attack asks for: the gradient of the images alone."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = function(x, False)
            loss = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
        return outputs, tape.gradient(loss, x)

    return step


MODES = {"training step": training_step, "gradient at inference": inference_gradient}


def seconds(step, x, calls):
    start = time.perf_counter()
    for _ in range(calls):
        results = step(x)
    results[-1].numpy()  # waits for a GPU
    return (time.perf_counter() - start) / calls


def agree(ours, theirs, x, dtype):
    """Raises unless both give the same, as far as the dtype can tell."""
    tolerance = 1e-2 if dtype == "float32" else 0.1
    for mine, their in zip(ours(x), theirs(x), strict=True):
        mine, their = (np.asarray(tf.cast(t, "float32")) for t in (mine, their))
        scale = max(np.abs(their).max(), 1.0)
        assert np.abs(mine - their).max() < tolerance * scale, (mine, their)


def measure(ours, theirs, x):
    """Milliseconds of each, and the ratio theirs / ours within each round."""
    for step in (ours, theirs):
        seconds(step, x, 3)
    calls = max(1, round(SECONDS / seconds(theirs, x, 3)))
    times = {0: [], 1: []}
    for turn in range(ROUNDS):
        for which in ((0, 1), (1, 0))[turn % 2]:
            times[which].append(1e3 * seconds((ours, theirs)[which], x, calls))
    ratios = [their / mine for mine, their in zip(times[0], times[1], strict=True)]
    return {
        "ours_ms": statistics.median(times[0]),
        "keras_ms": statistics.median(times[1]),
        "times_faster": {
            "min": min(ratios),
            "median": statistics.median(ratios),
            "max": max(ratios),
        },
        "calls_per_round": calls,
    }


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores in use"


def machine():
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "gpus": gpus,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def markdown(report):
    lines = ["# Batch normalization: tfadv beside Keras", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += [
        f"- rounds: {ROUNDS}, interleaved; `python -m benchmarks.normalization` made this file",
        "",
        "Times faster = Keras's time / ours in the same round: above 1, ours is faster. "
        "In a training step the mixture stands beside two Keras layers with half of the images "
        "each and a concatenation, at inference beside one of them.",
    ]
    heading = None
    for row in report["results"]:
        if heading != (row["layer"], row["mode"]):
            heading = (row["layer"], row["mode"])
            lines += ["", f"## {row['layer']}, {row['mode']}", ""]
            lines += [
                "| shape | dtype | ours, ms | Keras, ms | times faster: median (min to max) |"
            ]
            lines += ["|---|---|--:|--:|--:|"]
        ratio = row["times_faster"]
        lines.append(
            f"| {' x '.join(map(str, row['shape']))} | {row['dtype']} | {row['ours_ms']:.2f} "
            f"| {row['keras_ms']:.2f} "
            f"| {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main():
    report = {"machine": machine(), "results": []}
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x, upstream = (tf.constant(rng.normal(size=shape), tf.float32) for _ in range(2))
        for dtype in DTYPES:
            for layer, pair in contestants(shape, dtype).items():
                for mode, make in MODES.items():
                    if layer == MIXTURE_BY_SPLIT and make is inference_gradient:
                        continue  # the same as the other
                    ours, theirs = (make(*contestant, upstream) for contestant in pair)
                    agree(ours, theirs, x, dtype)
                    row = {"layer": layer, "mode": mode, "shape": shape, "dtype": dtype}
                    report["results"].append({**row, **measure(ours, theirs, x)})
                    print(json.dumps(report["results"][-1]), flush=True)
    report["results"].sort(key=lambda row: (row["layer"], row["mode"] != "training step"))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "normalization.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "normalization.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
