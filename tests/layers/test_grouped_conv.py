"""Grouped convolution against Keras's own, and against separate convolutions in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.layers import GroupedConv2D


def pair(**options):
    options = {"filters": 6, "kernel_size": 3, "padding": "same", "groups": 2, **options}
    ours, keras_own = GroupedConv2D(**options), keras.layers.Conv2D(**options)
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 4)).astype("float32")
    ours.build(x.shape)
    keras_own.build(x.shape)
    ours.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in ours.get_weights()])
    keras_own.set_weights(ours.get_weights())
    return ours, keras_own, tf.constant(x)


def gradients(layer, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
        loss = tf.reduce_sum(tf.sin(outputs))
    variables = [variable.value for variable in layer.trainable_variables]
    return [outputs, *tape.gradient(loss, [x, *variables])]


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2, "use_bias": False},
        {"padding": "valid", "activation": "relu"},
        {"dilation_rate": 2, "groups": 1},
        {"kernel_size": (1, 3), "groups": 2, "filters": 4},
    ],
)
def test_equals_keras_with_its_gradients(options):
    ours, keras_own, x = pair(**options)
    for run in (gradients, tf.function(gradients)):
        for actual, expected in zip(run(ours, x), gradients(keras_own, x), strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_each_group_sees_its_own_channels():
    ours, _, x = pair(kernel_size=1, use_bias=False)
    kernel = ours.kernel.numpy()[0, 0]  # [2 channels of a group, 6 filters]
    expected = [x[..., 2 * g : 2 * g + 2] @ kernel[:, 3 * g : 3 * g + 3] for g in range(2)]
    np.testing.assert_allclose(ours(x), np.concatenate(expected, -1), rtol=1e-5, atol=1e-5)


def test_on_a_gpu_it_is_one_operation(monkeypatch):
    """A CPU can run the forward pass of that operation too."""
    ours, _, x = pair(padding="valid", use_bias=False)
    expected = ours(x)

    def operations():
        graph = tf.function(ours.__call__).get_concrete_function(x).graph
        return [op.type for op in graph.get_operations() if op.type == "Conv2D"]

    assert len(operations()) == 2
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert len(operations()) == 1
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_config_round_trip():
    layer = GroupedConv2D(8, 3, groups=4, name="conv")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is GroupedConv2D and copy.get_config() == layer.get_config()
