import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import layers, models


def values(shape, seed=0):
    return np.random.default_rng(seed).normal(1, 2, shape).astype("float32")


def gradients(layer, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * upstream)
    return [outputs, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])]


@pytest.mark.parametrize(
    "shape, options",
    [
        ((3, 5, 4, 8), dict(groups=4)),
        ((3, 7, 6), dict(groups=1, epsilon=0.1)),
        ((2, 3, 4, 2, 6), dict(groups=6, center=False)),
        ((2, 4, 4, 6), dict(groups=-1, scale=False)),
        ((3, 8), dict(groups=2)),  # no positions: Keras's own
        ((2, 6, 4, 4), dict(groups=3, axis=1)),  # channels first: the same
        ((0, 4, 4, 6), dict(groups=2)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
def test_equals_keras_with_its_gradients(shape, options, dtype):
    ours = layers.GroupNormalization(**options, dtype=dtype)
    theirs = keras.layers.GroupNormalization(**options, dtype=dtype)
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights([values(v.shape, i) for i, v in enumerate(layer.weights)])
    rounding = 0.05 if "16" in dtype else 1e-5
    results = [gradients(layer, values(shape), values(shape, 5)) for layer in (ours, theirs)]
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        actual, expected = (tf.cast(each, "float64").numpy() for each in (actual, expected))
        scale = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(actual, expected, rounding, rounding * scale)


def test_variance_of_values_far_from_zero():
    x = 1e4 + values([2, 8, 8, 4])
    layer = layers.GroupNormalization(2, epsilon=1e-5)
    groups = (x.astype("float64") - 1e4).reshape(2, 8, 8, 2, 2)
    mean, variance = (f(groups, (1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(layer(x), expected, atol=5e-3)  # float32 has steps of 0.001 there


def test_unknown_sizes_and_a_second_gradient():
    layer = layers.GroupNormalization(2)
    x = values([2, 3, 5, 4])
    expected = layer(x)
    outputs = tf.function(layer, input_signature=[tf.TensorSpec([None, None, 5, 4])])(x)
    np.testing.assert_allclose(outputs, expected, 1e-6, 1e-6)
    inputs = tf.constant(x[:, :1, :2])
    theirs = keras.layers.GroupNormalization(2)
    second = []
    for each in (layer, theirs):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                loss = tf.reduce_sum(tf.sin(each(inputs)))
            square = tf.reduce_sum(tf.square(inner.gradient(loss, inputs)))
        second.append(outer.gradient(square, inputs))
    np.testing.assert_allclose(second[0], second[1], 1e-3, 1e-4)


def test_extract_gives_keras_own_layer(tmp_path):
    model = models.SmallResNet(8, width=4, image_size=8, norm="gn", seed=0)
    plain = models.extract(model, "adv")
    kinds = {type(layer) for layer in plain._flatten_layers()}
    assert keras.layers.GroupNormalization in kinds and layers.GroupNormalization not in kinds
    x = 25 * values([2, 8, 8, 3])
    np.testing.assert_allclose(plain(x), model(x), 1e-5, 1e-5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))
