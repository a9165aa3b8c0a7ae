"""The attack's benchmark, with our own contestants on a tiny network."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import attack, attackers
from tfadv import attacks


@pytest.fixture(scope="module")
def task():
    inputs = keras.Input([4, 4, 3])
    x = keras.layers.Rescaling(1 / 255)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    return attackers.Task(
        attack=attacks.PGD(epsilon=16, num_steps=2),
        model=model,
        plain=model,
        value_range=(0.0, 255.0),
        num_classes=10,
    )


@pytest.fixture(scope="module")
def batch(task):
    images = np.random.default_rng(0).uniform(16, 239, [8, 4, 4, 3]).astype(np.float32)
    return task.batch(images, tf.range(8), 3)


def test_ours_has_the_starts_and_targets_of_the_others(task, batch):
    run = attackers.ours(task, precision="float32", fold=False)
    advanced = task.attack.advance(
        task.model, batch.images, batch.start, batch.targets, 2, None, task.value_range
    )
    np.testing.assert_array_equal(run(batch), advanced)
    assert not np.any(batch.targets == batch.labels)


def test_the_floor_is_the_gradient_of_the_loss_to_the_target(task, batch):
    slope = attackers.floor(task)(batch)
    expected = task.attack.gradient(task.model, batch.start, batch.targets)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)


def test_strength_counts_each_batch_once():
    images = np.zeros([4, 1], np.float32)
    batches = [
        types.SimpleNamespace(images=images, targets=tf.constant(targets))
        for targets in ([0, 1, 2, 3], [5, 5, 5, 5])
    ]

    def contestant(classes, change=0.0):
        return attack.Contestant(
            lambda batch: batch.images + change, batches, lambda _: np.array(classes), epsilon=1.0
        )

    ours, theirs = contestant([0, 1, 2, 9]), contestant([5, 1, 2, 3])
    assert all(ours() >= 0 for _ in range(3))
    theirs()
    strength = attack.strength(ours, ours)
    assert strength == {"images": 8, "percent": 37.5, "percent_of_tfadv_float32": 37.5}
    # Ours is counted on the images that both had.
    strength = attack.strength(theirs, ours)
    assert strength == {"images": 4, "percent": 75.0, "percent_of_tfadv_float32": 75.0}
    with pytest.raises(RuntimeError, match="must stay within epsilon=1.0"):
        contestant([0, 0, 0, 0], change=2.0)()
