import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.layers import InputContract


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_pixels_become_minus_one_to_one(dtype):
    images = np.array([0, 51, 255]).reshape(1, 1, 1, 3).astype(dtype)
    outputs = InputContract()(images)
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs[0, 0, 0], [-1, -0.6, 1], atol=1e-7)


def test_other_ranges():
    outputs = InputContract(value_range=(-0.5, 1.5))(np.array([-0.5, 0.0, 1.5], "float32"))
    np.testing.assert_allclose(outputs, [-1, -0.5, 1], atol=1e-7)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_half_precision_rounds_only_once(policy):
    """Rounded before the shift, 256 levels of pixels would be fewer than 200 in bfloat16."""
    images = np.arange(256, dtype="float32").reshape(1, 16, 16, 1)
    layer = InputContract(dtype=policy)
    outputs = layer(images)
    assert outputs.dtype == layer.compute_dtype
    exact = tf.cast(tf.cast(images, tf.float32) * (2 / 255) - 1, outputs.dtype)
    assert np.array_equal(outputs, exact)


def test_the_gradient_reaches_the_image():
    images = tf.ones([1, 2, 2, 3])
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(InputContract()(images))
    np.testing.assert_allclose(tape.gradient(total, images), np.full((1, 2, 2, 3), 2 / 255), 1e-6)


def test_a_saved_model_keeps_its_contract(tmp_path):
    inputs = keras.Input((2, 2, 3))
    layer = InputContract((0.0, 1.0), "BGR", name="contract")
    keras.Model(inputs, layer(inputs)).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("contract")
    assert loaded.value_range == (0.0, 1.0) and loaded.channel_order == "BGR"
    assert loaded.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"value_range": (255, 0)}, r"value_range must be .*; received \(255, 0\)$"),
        ({"value_range": (1, 1)}, "low < high"),
        ({"value_range": (0, float("nan"))}, "low < high"),
        ({"channel_order": "RBG"}, "channel_order must be .*; received 'RBG'$"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        InputContract(**options)
