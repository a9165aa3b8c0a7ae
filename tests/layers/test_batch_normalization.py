import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import reference
from tfadv.layers import BatchNormalization, scope

MOMENTUM, EPSILON = 0.9, 1e-5
# Rank 4 with the channels last takes the fused kernel.
SHAPES = [((7, 3), -1), ((8, 3), 1), ((2, 5, 4, 3), -1), ((4, 3, 5, 2), 1), ((3, 5, 4), -1)]


def arrays(*shape, seed=0):
    """Inputs far from mean 0 and variance 1, and upstream gradients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape[-1])
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def made(channels, shape, seed=1, cls=BatchNormalization, **options):
    layer = cls(**options)
    layer.build((None, *shape[1:]))
    state = reference.State.random(channels, seed)
    state.give(layer)
    return layer, state


def run(layer, x, upstream, training, mask=None):
    """A call of a layer and its gradients, in the form of the reference."""
    x = tf.constant(x)
    variables = [layer.gamma.value, layer.beta.value]
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=training, mask=None if mask is None else tf.constant(mask))
        loss = tf.reduce_sum(tf.cast(outputs, "float64") * tf.cast(upstream, "float64"))
    gradients = tape.gradient(loss, [x, *variables])
    state = reference.State.of(layer)
    return reference.Result(
        outputs, *gradients, moving_mean=state.moving_mean, moving_variance=state.moving_variance
    )


def assert_equal(result, expected, tolerance=2e-5):
    for name, value in vars(expected).items():
        actual = np.asarray(getattr(result, name), "float64")
        np.testing.assert_allclose(actual, value, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("shape,axis", SHAPES)
def test_training_equals_numpy(shape, axis, in_graph):
    x, upstream = arrays(*shape)
    layer, state = made(shape[axis], shape, axis=axis)
    function = run if not in_graph else graph_run
    result = function(layer, x, upstream, True)
    assert_equal(result, reference.train(x, upstream, state, MOMENTUM, EPSILON, axis))


def graph_run(layer, x, upstream, training):
    """`run` inside of a function that does not know how many images there are."""
    signature = [tf.TensorSpec([None, *x.shape[1:]]), tf.TensorSpec([None, *x.shape[1:]])]

    @tf.function(input_signature=signature)
    def function(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=training)
            loss = tf.reduce_sum(outputs * upstream)
        return outputs, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    results = function(x, upstream)
    state = reference.State.of(layer)
    return reference.Result(*results, state.moving_mean, state.moving_variance)


@pytest.mark.parametrize("shape,axis", SHAPES)
def test_inference_equals_numpy(shape, axis):
    x, upstream = arrays(*shape)
    layer, state = made(shape[axis], shape, axis=axis)
    expected = reference.infer(x, upstream, state, EPSILON, axis)
    assert_equal(run(layer, x, upstream, False), expected)


@pytest.mark.parametrize("shape,axis", SHAPES)
def test_running_statistics_stand_still_while_gamma_and_beta_learn(shape, axis):
    x, upstream = arrays(*shape)
    layer, state = made(shape[axis], shape, axis=axis)
    expected = reference.infer(x, upstream, state, EPSILON, axis)
    with scope.enter("adv", running_statistics=True):
        result = run(layer, x, upstream, True)
    assert_equal(result, expected)
    assert np.array_equal(result.moving_mean, state.moving_mean)
    assert np.array_equal(result.moving_variance, state.moving_variance)
    assert np.abs(result.d_gamma).min() > 0 and np.abs(result.d_beta).min() > 0
    assert len(layer.trainable_variables) == 2
    # The next training call, outside of that scope, is an ordinary one again.
    again = run(layer, x, upstream, True)
    assert_equal(again, reference.train(x, upstream, state, MOMENTUM, EPSILON, axis))


@pytest.mark.parametrize("shape,mask_shape", [((3, 5, 4), (3, 5)), ((2, 3, 4, 5), (2, 3, 4))])
def test_masked_positions_do_not_count(shape, mask_shape):
    x, upstream = arrays(*shape)
    mask = np.random.default_rng(5).random(mask_shape) < 0.6
    layer, state = made(shape[-1], shape)
    result = run(layer, x, upstream, True, mask)
    assert_equal(result, reference.train(x, upstream, state, MOMENTUM, EPSILON, mask=mask))


def test_a_mask_of_nothing_leaves_the_statistics_and_finite_outputs():
    x, upstream = arrays(3, 5, 4)
    layer, state = made(4, x.shape)
    result = run(layer, x, upstream, True, np.zeros((3, 5), bool))
    assert np.array_equal(result.moving_mean, state.moving_mean)
    assert np.array_equal(result.moving_variance, state.moving_variance)
    assert all(np.isfinite(value).all() for value in vars(result).values())


@pytest.mark.parametrize("shape,axis", [((2, 5, 4, 3), -1), ((4, 3, 5, 2), 1), ((7, 3), -1)])
def test_training_and_inference_equal_keras(shape, axis):
    x, upstream = arrays(*shape)
    ours, _ = made(shape[axis], shape, axis=axis, momentum=0.7, epsilon=1e-3)
    options = dict(axis=axis, momentum=0.7, epsilon=1e-3, cls=keras.layers.BatchNormalization)
    theirs, _ = made(shape[axis], shape, **options)
    for training in (True, False):
        assert_equal(run(ours, x, upstream, training), run(theirs, x, upstream, training))


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
@pytest.mark.parametrize("batch", ["static", "unknown"])
def test_an_empty_batch_changes_nothing_and_has_zero_gradients(shape, axis, batch):
    x, upstream = arrays(*shape)
    layer, state = made(shape[axis], shape, axis=axis)
    function = run if batch == "static" else graph_run
    result = function(layer, x[:0], upstream[:0], True)
    for name in ("moving_mean", "moving_variance"):
        assert np.array_equal(getattr(result, name), getattr(state, name)), name
    assert not np.any(result.d_gamma) and not np.any(result.d_beta)
    assert result.outputs.shape == result.d_inputs.shape == (0, *shape[1:])


def test_one_value_a_channel_has_variance_zero():
    """The fused kernel's unbiased variance divides by zero there."""
    x = np.full((1, 1, 1, 2), 3, "float32")
    layer = BatchNormalization()
    outputs = layer(x, training=True)
    assert np.array_equal(outputs, np.zeros_like(x))
    np.testing.assert_allclose(layer.moving_variance, [0.9, 0.9], 1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.3, 0.3], 1e-6)


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 4, 3)])
def test_a_frozen_layer_infers_as_in_keras(shape):
    x, upstream = arrays(*shape)
    layer, state = made(3, shape)
    layer.trainable = False
    result = run(layer, x, upstream, True)
    expected = reference.infer(x, upstream, state, EPSILON)
    np.testing.assert_allclose(result.outputs, expected.outputs, 2e-5, 2e-5)
    assert np.array_equal(result.moving_mean, state.moving_mean)
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
    layer, state = made(3, shape, dtype=policy)
    assert {variable.dtype for variable in layer.variables} == {dtype}
    x = tf.cast(x, layer.compute_dtype)  # what the layer before would have rounded
    result = run(layer, x, upstream, True)
    assert result.outputs.dtype == layer.compute_dtype
    rounded = np.asarray(tf.cast(x, "float64"))
    expected = reference.train(rounded, upstream, state, MOMENTUM, EPSILON)
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
    layer.build((None, 1))
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


def test_what_a_stateless_scope_holds_back():
    """The adversarial step reads the changes there, and applies them later."""
    x, upstream = arrays(2, 5, 4, 3)
    layer, state = made(3, x.shape)
    with keras.StatelessScope() as held:
        layer(x, training=True)
    assert np.array_equal(layer.moving_mean.numpy(), state.moving_mean.astype("float32"))
    expected = reference.train(x, upstream, state, MOMENTUM, EPSILON)
    for name in ("moving_mean", "moving_variance"):
        value = held.get_current_value(getattr(layer, name))
        np.testing.assert_allclose(value, getattr(expected, name), 1e-5)


def test_defaults_are_those_of_the_pipeline():
    layer = BatchNormalization()
    assert (layer.axis, layer.momentum, layer.epsilon) == (-1, 0.9, 1e-5)


def test_config_round_trip():
    options = dict(
        axis=1,
        momentum=0.5,
        epsilon=0.25,
        center=False,
        gamma_initializer="zeros",
        gamma_regularizer=keras.regularizers.L2(0.125),
        gamma_constraint="non_neg",
        moving_variance_initializer=keras.initializers.Constant(4.0),
        name="norm",
        dtype="mixed_bfloat16",
        trainable=False,
    )
    config = BatchNormalization(**options).get_config()
    copy = BatchNormalization.from_config(config)
    assert copy.get_config() == config
    assert {name: getattr(copy, name) for name in ("axis", "momentum", "epsilon", "name")} == {
        name: options[name] for name in ("axis", "momentum", "epsilon", "name")
    }
    assert copy.gamma_regularizer.l2 == 0.125 and copy.center is False and not copy.trainable


def test_a_saved_model_gives_the_same_bits(tmp_path):
    x, _ = arrays(6, 5, 4, 3)
    inputs = keras.Input((5, 4, 3))
    model = keras.Model(inputs, BatchNormalization(name="norm")(inputs))
    reference.State.random(3, 1).give(model.get_layer("norm"))
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is BatchNormalization
    for training in (False, True):
        assert np.array_equal(model(x, training=training), loaded(x, training=training))
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("name", ["renorm", "synchronized"])
def test_refused_options(name):
    with pytest.raises(ValueError, match=f"^{name} must be False .*; received True$"):
        BatchNormalization(**{name: True})
