"""Non-local means against sums in NumPy, position by position."""

import keras
import numpy as np
import pytest

from tfadv.layers import NonLocalMeans


def tensors(height=3, width=2, size=4, channels=5, count=2, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(count, height, width, c) for c in (size, size, channels)]
    return [scale * rng.normal(size=shape).astype("float32") for shape in shapes]


def expected(kind, theta, phi, values):
    """The definition, in float64, one position at a time."""
    out = np.zeros(values.shape)
    positions = list(np.ndindex(values.shape[1:3]))
    for n in range(len(values)):
        for i in positions:
            dots = np.array([np.dot(*map(np.float64, (theta[n][i], phi[n][j]))) for j in positions])
            if kind == "gaussian":
                weights = np.exp(dots / np.sqrt(theta.shape[-1]))
                weights /= weights.sum()
            else:
                weights = dots / len(positions)
            out[n][i] = sum(w * values[n][j] for w, j in zip(weights, positions, strict=True))
    return out


# Few positions and many, so that the three matrices are multiplied in either order.
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2), (3, 4), (7, 5)])
@pytest.mark.parametrize("kind", ["gaussian", "dot_product"])
def test_equals_the_definition(kind, shape):
    inputs = tensors(*shape)
    outputs = NonLocalMeans(kind)(inputs)
    np.testing.assert_allclose(outputs, expected(kind, *inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "dot_product"])
@pytest.mark.parametrize("dtype, digits", [("mixed_bfloat16", 8), ("mixed_float16", 11)])
def test_half_precision(dtype, digits, kind):
    inputs = [np.asarray(keras.ops.cast(x, dtype[6:]), "float32") for x in tensors(9, 8)]
    outputs = NonLocalMeans(kind, dtype=dtype)(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype[6:]
    # A handful of roundings of numbers around one.
    np.testing.assert_allclose(
        keras.ops.cast(outputs, "float32"),
        expected(kind, *inputs),
        rtol=8 * 2.0**-digits,
        atol=4 * 2.0**-digits,
    )


def test_sums_over_positions_stay_in_the_range_of_float16():
    # The sum over 1024 positions is 16 * 16 * 1024, four times float16's largest number.
    x = np.full((1, 32, 32, 4), 16.0, "float32")
    outputs = NonLocalMeans("dot_product", dtype="float16")([x, x, x])
    np.testing.assert_array_equal(outputs, np.full_like(x, 16.0**3 * 4))


@pytest.mark.parametrize("kind", ["gaussian", "dot_product"])
@pytest.mark.parametrize("channels", [1, 16])
def test_many_positions_in_bfloat16(channels, kind):
    """A sum of ones that is kept in bfloat16 stops growing at 256."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (1, 32, 32, channels)).astype("float32")
    zeros = np.zeros((1, 32, 32, 2), "float32")
    inputs = [zeros, zeros, x] if kind == "gaussian" else [x, x, x]
    outputs = keras.ops.cast(NonLocalMeans(kind, dtype="mixed_bfloat16")(inputs), "float32")
    flat = x.reshape(1024, channels)
    means = flat.mean(0) if kind == "gaussian" else (flat @ (flat.T @ flat / 1024)).reshape(x.shape)
    np.testing.assert_allclose(outputs, np.broadcast_to(means, x.shape), rtol=3 * 2.0**-8)


@pytest.mark.parametrize("kind", ["gaussian", "dot_product"])
def test_one_model_serves_any_batch_size(kind):
    inputs = [keras.Input(x.shape[1:]) for x in tensors()]
    model = keras.Model(inputs, NonLocalMeans(kind)(inputs))
    assert model.output_shape == (None, 3, 2, 5)
    for count in (1, 3):
        given = tensors(count=count)
        outputs = model.predict_on_batch(given)
        np.testing.assert_allclose(outputs, expected(kind, *given), rtol=1e-5, atol=1e-5)


def test_config_round_trip():
    layer = NonLocalMeans("dot_product", name="means")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is NonLocalMeans and copy.kind == "dot_product" and copy.name == "means"


def test_refused_options():
    with pytest.raises(ValueError, match="kind must be .*; received 'softmax'"):
        NonLocalMeans("softmax")
    theta, phi, values = tensors()
    for wrong in ([theta, phi[..., 1:], values], [theta, phi, values[:, 1:]]):
        with pytest.raises(ValueError, match="inputs must be theta and phi of one shape"):
            NonLocalMeans()(wrong)
    x = keras.Input((None, 8, 4))
    with pytest.raises(ValueError, match="fixed height and width"):
        NonLocalMeans()([x, x, x])
