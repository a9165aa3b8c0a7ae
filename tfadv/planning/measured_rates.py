import statistics
import time

import numpy as np
import tensorflow as tf

from tfadv.training import AdversarialStep
from tfadv.training.batches import clean_count

_STEPS = 4  # of the attack that is timed against none
_CALLS = 5
# A pass of so many FLOPs takes a core of a CPU about a second; a GPU gets a worker's whole batch.
_CPU_FLOPS = 60e9


def measure_rates(
    model,
    attack,
    cost,
    *,
    images,
    clean_ratio=1.0,
    rematerialize="none",
    attack_precision="float32",
):
    """Measures what this machine reaches in a network's attack and in its update's pass.

    The real steps of training, the optimizer's update among them, with an attack of four
    iterations and with one of none; the difference is the attack's. They compute with random
    images, on the one device or all the cores that this process sees. The model is trained by
    them.

    Args:
        model: A compiled Keras model of images in [0, 255] that ends in logits.
        attack: A `tfadv.attacks.PGD`, or None to train on clean images alone.
        cost: The model's `NetworkCost`.
        images: Integer, clean images of a batch; on a CPU as many of them as take about a second,
            at least two.
        clean_ratio, rematerialize, attack_precision: As of `AdversarialTraining`.

    Returns:
        FLOP/s of the attack and FLOP/s of the update's pass, as `predict` takes them. Without an
        attack both are the pass's.
    """
    if not tf.config.get_visible_devices("GPU"):
        images = min(images, max(2, int(_CPU_FLOPS / (2 * cost.update))))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    recomputed = cost.forward * (rematerialize != "none")

    def step(attack, ratio):
        step = AdversarialStep(
            model,
            attack,
            (0, 255),
            clean_ratio=ratio,
            rematerialize=rematerialize,
            attack_precision=attack_precision,
        )
        return _compiled(step, model, images)

    if attack is None:
        [seconds] = _measured([step(None, 1.0)])
        rate = images * (cost.update + recomputed) / seconds
        return rate, rate
    numbers = (0, _STEPS)
    none, some = _measured(
        [step(attack.replace(num_steps=n, restarts=1), clean_ratio) for n in numbers]
    )
    count = images + (clean_count(images, clean_ratio) if clean_ratio else 0)
    one = cost.image_gradient + cost.forward * (rematerialize == "all")
    # On a busy machine the difference may vanish, or worse.
    attack_seconds = max(some - none, 0.1 * some)
    return _STEPS * images * one / attack_seconds, count * (cost.update + recomputed) / none


def _compiled(step, model, images):
    """A step with random images, as a function without arguments."""
    generator = np.random.default_rng(0)
    classes = model.output_shape[-1]
    x = tf.constant(generator.uniform(0, 255, (images, *model.input_shape[1:])), tf.float32)
    y = tf.one_hot(generator.integers(0, classes, images), classes)
    step.build((tf.TensorSpec(x.shape, x.dtype), tf.TensorSpec(y.shape, y.dtype)))
    return tf.function(lambda: step((x, y)), autograph=False)


def _measured(functions):
    """Median seconds of each of some functions, called in turns."""
    for function in functions:
        function()["loss"].numpy()  # traces
    turns = [[_seconds(function) for function in functions] for _ in range(_CALLS)]
    return [statistics.median(taken) for taken in zip(*turns, strict=True)]


def _seconds(function):
    start = time.perf_counter()
    function()["loss"].numpy()
    return time.perf_counter() - start
