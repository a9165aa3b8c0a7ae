"""Speed of tfadv's normalizations against Keras's: `python -m benchmarks.normalization`.

Their results are compared before any time is measured. "Times faster" is Keras's time over ours:
above 1, ours is faster.
"""

import itertools
import json
import statistics

import keras
import numpy as np
import tensorflow as tf

from benchmarks import measuring
from tfadv import layers, models

ROUNDS = 15
SECONDS_PER_TURN = 0.06
SHAPES = [
    (32, 56, 56, 64),  # a worker's 32 images in the four stages of a ResNet at 224 pixels
    (32, 28, 28, 128),
    (32, 14, 14, 256),
    (32, 7, 7, 512),
    (64, 32, 32, 16),  # small ResNets
    (64, 8, 8, 64),
    (256, 512),  # no images, so no fused kernel
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
    """Dictionary, name of a comparison -> (ours, theirs), each a function and its models.

    The functions take images and `training`.
    """
    inputs = keras.Input(batch_shape=shape, dtype="float32")

    def model_of(layer):
        return keras.Model(inputs, layer(inputs))

    ours = model_of(layers.BatchNormalization(dtype=dtype, **SETTINGS))
    mixture = model_of(layers.MixtureBatchNormalization(dtype=dtype, **SETTINGS))
    theirs, adv, clean = (
        model_of(keras.layers.BatchNormalization(dtype=dtype, **SETTINGS)) for _ in range(3)
    )

    def grouped(kind):
        model = model_of(kind(groups=16 if shape[-1] > 16 else 8, epsilon=1e-5, dtype=dtype))
        return (lambda x, training: model(x)), [model]

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
        "GroupNormalization": (
            grouped(layers.GroupNormalization),
            grouped(keras.layers.GroupNormalization),
        ),
        MIXTURE: ((mixed, [mixture]), pair(halves_by_slices)),
        MIXTURE_BY_SPLIT: ((mixed, [mixture]), pair(halves_by_split)),
    }


def training_step(function, parts, upstream):
    """Returns a step that updates the statistics and computes outputs and all gradients."""
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
    """Returns an attack's step, which computes the outputs and the gradient of the images alone."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = function(x, False)
            loss = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
        return outputs, tape.gradient(loss, x)

    return step


MODES = {"training step": training_step, "gradient at inference": inference_gradient}


def agree(ours, theirs, x, dtype):
    """Raises an AssertionError unless both results are equal, up to the dtype's rounding."""
    tolerance = 1e-2 if dtype == "float32" else 0.1
    for mine, their in zip(ours(x), theirs(x), strict=True):
        mine, their = (np.asarray(tf.cast(t, "float32")) for t in (mine, their))
        scale = max(np.abs(their).max(), 1.0)
        assert np.abs(mine - their).max() < tolerance * scale, (mine, their)


def measure(ours, theirs, x, turns):
    """Measures the milliseconds of each, and the ratio theirs / ours within each round."""

    def blocking(step):
        return lambda: step(x)[-1].numpy()

    seconds = measuring.interleaved(
        {"ours": blocking(ours), "keras": blocking(theirs)},
        turns,
        warm_up=3,
        seconds_per_turn=SECONDS_PER_TURN,
    )
    return {
        **{f"{name}_ms": 1e3 * statistics.median(values) for name, values in seconds.items()},
        "times_faster": measuring.ratio(seconds, "keras", "ours"),
    }


def run(options):
    results = []
    rng = np.random.default_rng(0)
    turns = measuring.rounds(options, ROUNDS)
    for shape in SHAPES[-2:] if options.quick else SHAPES:
        x, upstream = (tf.constant(rng.normal(size=shape), tf.float32) for _ in range(2))
        for dtype in DTYPES:
            for layer, pair in contestants(shape, dtype).items():
                for mode, make in MODES.items():
                    if layer == MIXTURE_BY_SPLIT and make is inference_gradient:
                        continue  # `MIXTURE` measures the same
                    ours, theirs = (make(*contestant, upstream) for contestant in pair)
                    agree(ours, theirs, x, dtype)
                    row = {"layer": layer, "mode": mode, "shape": shape, "dtype": dtype}
                    results.append({**row, **measure(ours, theirs, x, turns)})
                    measuring.progress(json.dumps(results[-1]))
    results.sort(key=lambda row: (row["layer"], row["mode"] != "training step"))
    return {"settings": {"seconds_per_turn": SECONDS_PER_TURN, **SETTINGS}, "results": results}


def table(report):
    parts = []
    for (layer, mode), rows in itertools.groupby(
        report["results"], key=lambda row: (row["layer"], row["mode"])
    ):
        rows = list(rows)
        heading = ["shape, dtype", "ours, ms", "Keras, ms", "times faster: median (min to max)"]
        parts.append(f"{layer}, {mode}, {rows[0]['times_faster']['rounds']} rounds:\n")
        parts.append(
            measuring.markdown_table(
                heading,
                [
                    [
                        f"{' x '.join(map(str, row['shape']))}, {row['dtype']}",
                        f"{row['ours_ms']:.2f}",
                        f"{row['keras_ms']:.2f}",
                        measuring.in_words(row["times_faster"]),
                    ]
                    for row in rows
                ],
            )
        )
    return "\n".join(parts)


if __name__ == "__main__":
    measuring.main("normalization", run, table)
