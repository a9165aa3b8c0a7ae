import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import reference
from tests.layers.reference import EPSILON
from tfadv.layers import BatchNormalization, scope

# Rank 4 with the channels last takes the fused kernel.
SHAPES = [((7, 3), -1), ((8, 3), 1), ((2, 5, 4, 3), -1), ((4, 3, 5, 2), 1), ((3, 5, 4), -1)]


def arrays(*shape, seed=0):
    """Inputs far from mean 0 and variance 1, and upstream gradients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape[-1])
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def build(shape, **options):
    return reference.build(BatchNormalization, shape, **options)


def run(layer, x, upstream, training, mask=None, in_graph=False):
    """A call of a layer and its gradients, as a `reference.Result`."""

    def call(x, upstream):
        variables = [layer.gamma.value, layer.beta.value]
        return reference.gradients(layer, x, upstream, variables, training=training, mask=mask)

    if in_graph:  # which does not know how many images there are
        call = tf.function(call, input_signature=[tf.TensorSpec([None, *x.shape[1:]])] * 2)
    results = call(x, upstream)
    state = reference.State.of(layer)
    return reference.Result(*results, state.moving_mean, state.moving_variance)


def assert_close(result, expected, tolerance=2e-5):
    for name, value in vars(expected).items():
        actual = np.asarray(getattr(result, name), "float64")
        np.testing.assert_allclose(actual, value, tolerance, tolerance, err_msg=name)


def assert_unchanged(result, state):
    assert np.array_equal(result.moving_mean, state.moving_mean)
    assert np.array_equal(result.moving_variance, state.moving_variance)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("shape,axis", SHAPES)
def test_training_equals_numpy(shape, axis, in_graph):
    x, upstream = arrays(*shape)
    layer, state = build(shape, axis=axis)
    result = run(layer, x, upstream, True, in_graph=in_graph)
    assert_close(result, reference.train(x, upstream, state, axis))


@pytest.mark.parametrize("shape,axis", SHAPES)
def test_inference_and_running_statistics_equal_numpy(shape, axis):
    x, upstream = arrays(*shape)
    layer, state = build(shape, axis=axis)
    expected = reference.infer(x, upstream, state, axis)
    assert_close(run(layer, x, upstream, False), expected)
    with scope.enter("adv", running_statistics=True):
        result = run(layer, x, upstream, True)
    assert_close(result, expected)
    assert_unchanged(result, state)
    assert len(layer.trainable_variables) == 2
    # The next training call, outside of that scope, uses the statistics of the batch again.
    result = run(layer, x, upstream, True)
    assert_close(result, reference.train(x, upstream, state, axis))


@pytest.mark.parametrize(
    "shape,axis,count,masked",
    [
        ((7, 3), -1, 3, False),
        ((8, 3), 1, 0, False),  # no adversarial image
        ((5, 5, 4, 3), -1, 3, False),
        ((5, 5, 4, 3), -1, 1, False),
        ((4, 3, 5, 2), 1, 2, False),
        ((6, 5, 4), -1, 3, True),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_domains_apart_equal_two_calls_in_numpy(shape, axis, count, masked, in_graph):
    """Each domain has its own statistics; both move the same ones, adversarial images first."""
    x, upstream = arrays(*shape)
    mask = np.random.default_rng(5).random(shape[:-1]) < 0.7 if masked else np.ones(shape[:-1])
    layer, state = build(shape, axis=axis)
    with scope.enter(count, apart=True):
        given = tf.constant(mask, tf.bool) if masked else None
        result = run(layer, x, upstream, True, given, in_graph=in_graph and not masked)
    where = [slice(count), slice(count, None)]
    masks = [mask[part] if masked else None for part in where]
    adv = reference.train(x[where[0]], upstream[where[0]], state, axis, masks[0])
    moved = dataclasses.replace(
        state, moving_mean=adv.moving_mean, moving_variance=adv.moving_variance
    )
    clean = reference.train(x[where[1]], upstream[where[1]], moved, axis, masks[1])
    expected = reference.Result(
        outputs=np.concatenate([adv.outputs, clean.outputs]),
        d_inputs=np.concatenate([adv.d_inputs, clean.d_inputs]),
        d_gamma=adv.d_gamma + clean.d_gamma,
        d_beta=adv.d_beta + clean.d_beta,
        moving_mean=clean.moving_mean,
        moving_variance=clean.moving_variance,
    )
    assert_close(result, expected)


def test_apart_means_nothing_for_one_domain():
    x, upstream = arrays(4, 3, 3, 2)
    layer, state = build(x.shape)
    with scope.enter("adv", apart=True):
        result = run(layer, x, upstream, True)
    assert_close(result, reference.train(x, upstream, state))


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 4, 5)])
def test_masked_positions_do_not_count(shape):
    x, upstream = arrays(*shape)
    mask = np.random.default_rng(5).random(shape[:-1]) < 0.6
    layer, state = build(shape)
    result = run(layer, x, upstream, True, tf.constant(mask))
    assert_close(result, reference.train(x, upstream, state, mask=mask))


def test_a_mask_of_nothing_keeps_the_statistics_and_gives_finite_outputs():
    x, upstream = arrays(3, 5, 4)
    layer, state = build(x.shape)
    result = run(layer, x, upstream, True, tf.zeros((3, 5), bool))
    assert_unchanged(result, state)
    assert all(np.isfinite(value).all() for value in vars(result).values())


@pytest.mark.parametrize("shape,axis", [((2, 5, 4, 3), -1), ((4, 3, 5, 2), 1), ((7, 3), -1)])
def test_training_and_inference_equal_keras(shape, axis):
    x, upstream = arrays(*shape)
    layers = [
        reference.build(cls, shape, axis=axis, momentum=0.7, epsilon=1e-3)[0]
        for cls in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for training in (True, False):
        assert_close(*(run(layer, x, upstream, training) for layer in layers))


@pytest.mark.parametrize("center,scale", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 4, 3)])
def test_without_gamma_or_beta(shape, center, scale):
    x, _ = arrays(*shape)
    layer = BatchNormalization(center=center, scale=scale)
    outputs = layer(x, training=True)
    assert len(layer.trainable_variables) == center + scale
    axes = tuple(range(x.ndim - 1))
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPSILON)
    np.testing.assert_allclose(outputs, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("shape,axis", SHAPES)
@pytest.mark.parametrize("in_graph", [False, True])
def test_an_empty_batch_changes_nothing_and_has_zero_gradients(shape, axis, in_graph):
    x, upstream = arrays(*shape)
    layer, state = build(shape, axis=axis)
    result = run(layer, x[:0], upstream[:0], True, in_graph=in_graph)
    assert_unchanged(result, state)
    assert not np.any(result.d_gamma) and not np.any(result.d_beta)
    assert result.outputs.shape == result.d_inputs.shape == (0, *shape[1:])


def test_one_value_per_channel_has_variance_zero():
    """The fused kernel's unbiased variance divides by zero there."""
    x = np.full((1, 1, 1, 2), 3, "float32")
    layer = BatchNormalization()
    assert np.array_equal(layer(x, training=True), np.zeros_like(x))
    np.testing.assert_allclose(layer.moving_variance, [0.9, 0.9], 1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.3, 0.3], 1e-6)


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 4, 3)])
def test_a_frozen_layer_uses_its_moving_statistics_as_in_keras(shape):
    x, upstream = arrays(*shape)
    layer, state = build(shape)
    layer.trainable = False
    result = run(layer, x, upstream, True)
    np.testing.assert_allclose(
        result.outputs, reference.infer(x, upstream, state).outputs, 2e-5, 2e-5
    )
    assert_unchanged(result, state)
    assert layer.trainable_variables == []


POLICIES = {  # the dtype of statistics, the error of one rounding of the outputs
    "float32": ("float32", 2e-5),
    "mixed_bfloat16": ("float32", 2**-8),
    "mixed_float16": ("float32", 2**-11),
    "bfloat16": ("float32", 2**-8),
    "float16": ("float32", 2**-11),
    "float64": ("float64", 1e-12),
}


@pytest.mark.parametrize("shape", [(64, 3), (8, 4, 4, 3)])
@pytest.mark.parametrize("policy", POLICIES)
def test_statistics_are_exact_under_every_policy(policy, shape):
    dtype, tolerance = POLICIES[policy]
    x, upstream = arrays(*shape)
    layer, state = build(shape, dtype=policy)
    assert {variable.dtype for variable in layer.variables} == {dtype}
    x = tf.cast(x, layer.compute_dtype)  # as the layer before would have rounded it
    result = run(layer, x, upstream, True)
    assert result.outputs.dtype == layer.compute_dtype
    expected = reference.train(np.asarray(tf.cast(x, "float64")), upstream, state)
    error = min(tolerance, 2e-5)
    for name in ("moving_mean", "moving_variance"):
        actual = getattr(result, name)
        np.testing.assert_allclose(actual, getattr(expected, name), error, error, err_msg=name)
    outputs = np.asarray(tf.cast(result.outputs, "float64"))
    np.testing.assert_allclose(outputs, expected.outputs, 2 * tolerance, 2 * tolerance)


def test_half_precision_keeps_small_changes_of_statistics():
    """A tenth of a small difference is lost in bfloat16, whose neighbours of 100 are 0.5 away."""
    constant = keras.initializers.Constant(100.0)
    layer = BatchNormalization(dtype="bfloat16", moving_mean_initializer=constant)
    layer(tf.fill([4, 1], tf.constant(101.0, "bfloat16")), training=True)
    np.testing.assert_allclose(layer.moving_mean, [100.1], 1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_float16_does_not_overflow(jit_compile):
    x = (np.arange(64 * 64 * 3).reshape(1, 64, 64, 3) % 7 * 5000).astype("float16")
    layer = BatchNormalization(dtype="mixed_float16")
    layer.build(x.shape)
    outputs = tf.function(layer, jit_compile=jit_compile)(x, training=True)
    wide = x.astype("float64")
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * wide.var((0, 1, 2)), 1e-4)
    expected = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    np.testing.assert_allclose(np.asarray(outputs, "float64"), expected, 2e-3, 2e-3)


def test_a_saved_model_gives_the_same_bits(tmp_path):
    x, _ = arrays(6, 5, 4, 3)
    options = dict(momentum=0.5, gamma_regularizer=keras.regularizers.L2(0.125), name="norm")
    layer, _ = build(x.shape, **options)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    copy = loaded.get_layer("norm")
    assert type(copy) is BatchNormalization and copy.get_config() == layer.get_config()
    for training in (True, False):
        assert np.array_equal(model(x, training=training), loaded(x, training=training))


@pytest.mark.parametrize("name", ["renorm", "synchronized"])
def test_refused_options(name):
    with pytest.raises(ValueError, match=f"^{name} must be False .*; received True$"):
        BatchNormalization(**{name: True})
