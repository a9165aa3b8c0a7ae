"""Gradients of convolutions computed as convolutions, beside TensorFlow's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import models
from tfadv.models import folding


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5), (4, 1)])
def test_all_gradients_are_those_of_the_convolution(size, padding):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 7, 6, 3)), tf.float64)
    kernel = tf.constant(rng.normal(size=(*size, 3, 4)), tf.float64)
    results = []
    for turn in (False, True):
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            if turn:
                y = folding.convolution_with_fast_gradient(kernel, padding)(x)
            else:
                y = tf.nn.conv2d(x, kernel, 1, padding.upper())
            loss = tf.reduce_sum(tf.sin(y))
        results.append((y, *tape.gradient(loss, (x, kernel))))
    for actual, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(actual, expected, 1e-12, 1e-12)


def test_only_what_it_computes_turns(monkeypatch):
    def turns(**options):
        return folding.has_fast_gradient(keras.layers.Conv2D(4, 3, **options))

    class Standardized(keras.layers.Conv2D):
        """Might compute anything."""

    assert turns() and turns(padding="same")
    assert not turns(strides=2) and not turns(strides=(1, 2)) and not turns(dilation_rate=2)
    assert not turns(groups=2) and not turns(data_format="channels_first")
    assert not folding.has_fast_gradient(Standardized(4, 3))
    assert not folding.has_fast_gradient(keras.layers.DepthwiseConv2D(3))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not turns()


@pytest.mark.parametrize("fold", [True, False])
def test_a_network_without_batch_normalization_turns_as_it_is_prepared(fold):
    model = models.SmallResNet(8, width=4, norm="gn", seed=0)
    x = tf.random.stateless_uniform([2, 32, 32, 3], (0, 0), 0, 255)

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = models.Frozen(model, fold=fold)(x)
        return tape.gradient(logits, x)

    types = [op.type for op in gradient.get_concrete_function(x).graph.get_operations()]
    # Four of the nine convolutions have stride 2, two of these in shortcuts.
    assert types.count("Conv2DBackpropInput") == (4 if fold else 9)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=False)
    expected = tape.gradient(logits, x).numpy()
    np.testing.assert_allclose(gradient(x), expected, 1e-4, 1e-5 * np.abs(expected).max())
