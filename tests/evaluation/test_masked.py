"""Networks that hide their gradients fool PGD with cross entropy, and AutoAttack is not fooled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import data, evaluation
from tfadv.attacks import APGD, FAB, PGD, AutoAttack, Square, autoattack

EPSILON, COUNT = 24.0, 60


@pytest.fixture
def few_steps(monkeypatch):
    """Makes the standard version one of few steps, which suffice here."""
    parts = (
        lambda **shared: APGD(num_steps=20, **shared),
        lambda **shared: APGD(num_steps=20, loss="targeted_dlr", num_targets=3, **shared),
        lambda **shared: FAB(num_steps=10, num_targets=3, **shared),
        lambda **shared: Square(num_queries=400, **shared),
    )
    monkeypatch.setitem(autoattack._VERSIONS, "standard", parts)


@pytest.fixture(scope="module")
def trained():
    """A small network for handwritten digits, and images."""
    keras.utils.set_random_seed(0)
    digits = data.load("digits")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = digits.train_batches(64, steps_per_epoch=20)
    model.fit(batches, epochs=15, steps_per_epoch=20, shuffle=False, verbose=0)
    x, y, _ = next(iter(digits.validation_batches(COUNT)))
    return model, np.asarray(x, "float32"), np.asarray(y)


@tf.custom_gradient
def straight_through(images):
    return tf.round(images / 32) * 32, lambda gradient: gradient


@tf.custom_gradient
def flat(images):
    return tf.round(images / 32) * 32, lambda gradient: gradient * 0


def masked(model, how):
    inputs = keras.Input((8, 8, 1))
    x = inputs
    if how in ("straight-through", "quantized"):
        function = straight_through if how == "straight-through" else flat
        x = keras.layers.Lambda(function)(x)
    x = model(x)
    if how == "large logits":
        x = keras.layers.Rescaling(1000.0)(x)
    if how == "cold softmax":
        x = keras.layers.Softmax()(keras.layers.Rescaling(100.0)(x))
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    "how",
    [
        "large logits",
        pytest.param("cold softmax", marks=pytest.mark.slow),
        pytest.param("quantized", marks=pytest.mark.slow),
        pytest.param("straight-through", marks=pytest.mark.slow),
    ],
)
def test_autoattack_is_not_fooled(few_steps, trained, how):
    model, x, y = trained
    network = masked(model, how)
    given = {"value_range": (0, 255), "batch_size": COUNT}
    pgd = PGD(EPSILON, 4, 20, targeted=False)
    clean, fooled = evaluation.evaluate(network, (x, y), pgd, **given)
    _, strong = evaluation.evaluate(network, (x, y), AutoAttack(EPSILON), **given)
    assert clean.accuracy > 0.8
    if how == "straight-through":  # whose gradient is a good one
        assert strong.correct <= fooled.correct
    else:
        assert strong.accuracy < fooled.accuracy - 0.15
