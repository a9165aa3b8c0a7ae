import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import reference
from tfadv.layers import MixtureBatchNormalization, scope

MOMENTUM, EPSILON = 0.9, 1e-5
N = 6
SHAPES = [(N, 3), (N, 5, 4, 3)]
SPLITS = [0, 1, 3, N - 1, N]
VARIABLES = ("gamma", "beta")


def arrays(*shape, seed=0):
    """Images of two kinds, and upstream gradients: the halves differ in mean and variance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    x[: len(x) // 2] = 3 * x[: len(x) // 2] + 2
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def made(shape, affine="separate", **options):
    layer = MixtureBatchNormalization(affine=affine, **options)
    layer.build((None, *shape[1:]))
    channels = shape[options.get("axis", -1)]
    states = [reference.State.random(channels, seed) for seed in (1, 2)]
    if affine == "shared":
        states[1].gamma, states[1].beta = states[0].gamma, states[0].beta
    for state, branch in zip(states, (layer.adv, layer.clean), strict=True):
        state.give(branch)
    return layer, states


def run(layer, x, upstream, domain, training=True, mask=None):
    """Outputs, the inputs' gradient, and those of all variables by their path in the layer."""
    x = tf.convert_to_tensor(x)
    variables = {
        (branch, name): getattr(getattr(layer, branch), name).value
        for branch in ("adv", "clean")
        for name in VARIABLES
    }
    with tf.GradientTape() as tape, scope.enter(domain):
        tape.watch(x)
        outputs = layer(x, training=training, mask=mask)
        loss = tf.reduce_sum(tf.cast(outputs, upstream.dtype) * upstream)
    d_inputs, gradients = tape.gradient(
        loss, [x, variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return outputs, d_inputs, gradients


def apart(x, upstream, states, split, axis=-1, mask=None):
    """Two batch normalizations, each on its own images, in NumPy."""
    return [
        reference.train(
            x[part],
            upstream[part],
            state,
            MOMENTUM,
            EPSILON,
            axis,
            None if mask is None else mask[part],
        )
        for state, part in zip(states, (slice(split), slice(split, None)), strict=True)
    ]


def assert_equal(layer, results, expected, tolerance=2e-5):
    outputs, d_inputs, gradients = results
    close = dict(rtol=tolerance, atol=tolerance)
    joined = np.concatenate([part.outputs for part in expected])
    np.testing.assert_allclose(outputs, joined, **close, err_msg="outputs")
    joined = np.concatenate([part.d_inputs for part in expected])
    np.testing.assert_allclose(d_inputs, joined, **close, err_msg="d_inputs")
    for branch, part in zip(("adv", "clean"), expected, strict=True):
        for name in VARIABLES:
            actual = gradients[branch, name]
            np.testing.assert_allclose(actual, getattr(part, f"d_{name}"), **close)
        for name in ("moving_mean", "moving_variance"):
            actual = getattr(getattr(layer, branch), name).numpy()
            np.testing.assert_allclose(actual, getattr(part, name), **close, err_msg=name)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_training_equals_two_normalizations_apart(shape, split):
    x, upstream = arrays(*shape)
    layer, states = made(shape)
    results = run(layer, x, upstream, split)
    assert_equal(layer, results, apart(x, upstream, states, split))


@pytest.mark.parametrize("shape", SHAPES)
def test_training_with_sizes_known_only_at_run_time(shape):
    """One trace for every split, with a batch of unknown size."""
    layer, _ = made(shape)
    traces = []
    images = tf.TensorSpec([None, *shape[1:]])

    @tf.function(input_signature=[images, images, tf.TensorSpec([], tf.int32)])
    def function(x, upstream, split):
        traces.append(1)
        return run(layer, x, upstream, split)

    for split in SPLITS:
        x, upstream = arrays(*shape, seed=split)
        states = [reference.State.of(branch) for branch in (layer.adv, layer.clean)]
        results = function(x, upstream, split)
        # One image alone has variance 0, and 1 / sqrt(epsilon) = 316 magnifies float32's rounding.
        assert_equal(layer, results, apart(x, upstream, states, split), tolerance=2e-4)
    assert len(traces) == 1


@pytest.mark.parametrize("split", [0, 2, N])
def test_training_with_a_known_split_of_a_batch_of_unknown_size(split):
    layer, states = made(SHAPES[1])
    x, upstream = arrays(*SHAPES[1])
    images = tf.TensorSpec([None, *x.shape[1:]])
    function = tf.function(lambda x, up: run(layer, x, up, split), input_signature=[images] * 2)
    assert_equal(layer, function(x, upstream), apart(x, upstream, states, split))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("split", [0, N])
@pytest.mark.parametrize("known", [True, False])
def test_a_part_without_images_leaves_its_branch_untouched(shape, split, known):
    layer, _ = made(shape)
    untouched = layer.clean if split == N else layer.adv
    before = [variable.numpy() for variable in untouched.variables]
    x, upstream = arrays(*shape)
    domain = split if known else tf.constant(split)
    _, _, gradients = run(layer, x, upstream, domain)
    for variable, value in zip(untouched.variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)
    for name in VARIABLES:
        assert not np.any(gradients[untouched.name, name]), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("domain", [0, "adv", tf.constant(0)], ids=str)
def test_a_batch_without_images(shape, domain):
    layer, _ = made(shape)
    before = [variable.numpy() for variable in layer.variables]
    x, upstream = arrays(*shape)
    outputs, _, gradients = run(layer, x[:0], upstream[:0], domain)
    assert outputs.shape == (0, *shape[1:])
    assert not any(np.any(gradient) for gradient in gradients.values())
    for variable, value in zip(layer.variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)


def test_channels_first():
    x, upstream = arrays(N, 3, 4, 5)
    layer, states = made(x.shape, axis=1)
    results = run(layer, x, upstream, 2)
    assert_equal(layer, results, apart(x, upstream, states, 2, axis=1))


@pytest.mark.parametrize("split", [0, 2, N])
def test_each_part_takes_its_part_of_the_mask(split):
    x, upstream = arrays(N, 7, 3)
    mask = np.random.default_rng(5).random((N, 7)) < 0.6
    layer, states = made(x.shape)
    results = run(layer, x, upstream, split, mask=tf.constant(mask))
    assert_equal(layer, results, apart(x, upstream, states, split, mask=mask))


@pytest.mark.parametrize("domain", ["adv", "clean"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_of_one_domain_leaves_the_other(shape, domain):
    x, upstream = arrays(*shape)
    layer, states = made(shape)
    results = run(layer, x, upstream, domain)
    split = N if domain == "adv" else 0
    assert_equal(layer, results, apart(x, upstream, states, split))


@pytest.mark.parametrize("split", ["adv", "clean", 0, 2, N])
@pytest.mark.parametrize("shape", SHAPES)
def test_inference_is_each_domains_own(shape, split):
    x, upstream = arrays(*shape)
    layer, states = made(shape)
    outputs, d_inputs, _ = run(layer, x, upstream, split, training=False)
    count = {"adv": N, "clean": 0}.get(split, split)
    parts = zip(states, (slice(count), slice(count, None)), strict=True)
    expected = [reference.infer(x[part], upstream[part], state, EPSILON) for state, part in parts]
    for name, actual in (("outputs", outputs), ("d_inputs", d_inputs)):
        joined = np.concatenate([getattr(part, name) for part in expected])
        np.testing.assert_allclose(actual, joined, 2e-5, 2e-5)
    assert np.array_equal(layer.adv.moving_mean, states[0].moving_mean)
    assert np.array_equal(layer.clean.moving_variance, states[1].moving_variance)


@pytest.mark.parametrize("split", [N + 1, tf.constant(N + 1), np.int64(N + 1)], ids=type)
def test_more_adversarial_images_than_images_are_an_error(split):
    layer, _ = made(SHAPES[0])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)), scope.enter(split):
        layer(arrays(*SHAPES[0])[0])


@pytest.mark.parametrize("split", [np.int64(3), np.array(3), tf.constant(3, tf.int64)], ids=type)
def test_the_split_may_be_any_integer(split):
    x, upstream = arrays(*SHAPES[0])
    layer, states = made(x.shape)
    assert_equal(layer, run(layer, x, upstream, split), apart(x, upstream, states, 3))


def test_without_a_scope_it_is_the_adv_branch():
    x, _ = arrays(*SHAPES[1])
    layer, _ = made(x.shape)
    assert np.array_equal(layer(x), layer.adv(x))
    assert not np.allclose(layer(x), layer.clean(x), atol=0.1)


@pytest.mark.parametrize("split", [0, 2, N])
@pytest.mark.parametrize("shape", SHAPES)
def test_shared_gamma_and_beta_learn_from_both_parts(shape, split):
    x, upstream = arrays(*shape)
    layer, states = made(shape, affine="shared")
    assert layer.adv.gamma is layer.clean.gamma and layer.adv.beta is layer.clean.beta
    assert len(layer.trainable_variables) == 2 and len(layer.variables) == 6
    outputs, d_inputs, gradients = run(layer, x, upstream, split)
    expected = apart(x, upstream, states, split)
    for name in VARIABLES:
        total = sum(getattr(part, f"d_{name}") for part in expected)
        np.testing.assert_allclose(gradients["adv", name], total, 2e-5, 2e-5)
    np.testing.assert_allclose(outputs, np.concatenate([p.outputs for p in expected]), 2e-5, 2e-5)
    np.testing.assert_allclose(d_inputs, np.concatenate([p.d_inputs for p in expected]), 1e-4, 1e-4)
    for branch, part in zip((layer.adv, layer.clean), expected, strict=True):
        np.testing.assert_allclose(branch.moving_variance, part.moving_variance, 2e-5)


@pytest.mark.parametrize("affine,factor", [("shared", 1), ("separate", 2)])
def test_a_shared_gamma_is_regularized_once(affine, factor):
    layer = MixtureBatchNormalization(affine=affine, gamma_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([keras.Input((3,)), layer])
    assert sum(float(loss) for loss in model.losses) == factor * 0.5 * 3


def test_running_statistics_reach_both_branches():
    x, upstream = arrays(*SHAPES[1])
    layer, states = made(x.shape)
    with scope.enter(2, running_statistics=True):
        outputs = layer(x, training=True)
    expected = [
        reference.infer(x[part], upstream[part], state, EPSILON).outputs
        for state, part in zip(states, (slice(2), slice(2, None)), strict=True)
    ]
    np.testing.assert_allclose(outputs, np.concatenate(expected), 2e-5, 2e-5)
    assert np.array_equal(layer.clean.moving_mean, states[1].moving_mean)


@pytest.mark.parametrize("how", ["argument", "attribute", "reloaded"])
def test_a_frozen_mixture_infers_and_stands_still(how):
    x, _ = arrays(*SHAPES[1])
    layer, states = made(x.shape, **({"trainable": False} if how == "argument" else {}))
    layer.trainable = False
    if how == "reloaded":
        # Built from a config that says trainable=False, as in a reloaded file.
        weights = layer.get_weights()
        layer = MixtureBatchNormalization.from_config(layer.get_config())
        layer.build(x.shape)
        layer.set_weights(weights)
    with scope.enter(2):
        assert np.array_equal(layer(x, training=True), layer(x, training=False))
    assert np.array_equal(layer.adv.moving_mean, states[0].moving_mean)
    assert layer.trainable_variables == []


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_policies(policy, shape):
    x, upstream = arrays(*shape)
    layer, states = made(shape, dtype=policy)
    kept = "float64" if policy == "float64" else "float32"
    assert {variable.dtype for variable in layer.variables} == {kept}
    x = tf.cast(x, layer.compute_dtype)
    outputs, _, _ = run(layer, x, upstream, 2)
    assert outputs.dtype == layer.compute_dtype
    expected = apart(np.asarray(tf.cast(x, "float64")), upstream, states, 2)
    for branch, part in zip((layer.adv, layer.clean), expected, strict=True):
        np.testing.assert_allclose(branch.moving_mean, part.moving_mean, 2e-5, 2e-5)
        np.testing.assert_allclose(branch.moving_variance, part.moving_variance, 2e-5)
    joined = np.concatenate([part.outputs for part in expected])
    tolerance = {"mixed_float16": 2**-10, "float64": 1e-12}.get(policy, 2**-7)
    np.testing.assert_allclose(tf.cast(outputs, "float64"), joined, tolerance, tolerance)


def test_it_compiles_with_xla_for_one_domain():
    x, _ = arrays(*SHAPES[1])
    layer, _ = made(x.shape)

    @tf.function(jit_compile=True)
    def clean(x):
        with scope.enter("clean"):
            return layer(x)

    np.testing.assert_allclose(clean(x), layer.clean(x), 1e-5, 1e-5)


def test_config_round_trip():
    config = MixtureBatchNormalization(
        axis=1,
        momentum=0.5,
        epsilon=0.25,
        center=False,
        affine="shared",
        gamma_initializer="zeros",
        gamma_regularizer=keras.regularizers.L2(0.125),
        gamma_constraint="non_neg",
        moving_mean_initializer=keras.initializers.Constant(4.0),
        name="norm",
        dtype="mixed_bfloat16",
        trainable=False,
    ).get_config()
    copy = MixtureBatchNormalization.from_config(config)
    assert copy.get_config() == config
    for branch in (copy.adv, copy.clean):
        assert (branch.axis, branch.momentum, branch.epsilon, branch.center) == (
            1,
            0.5,
            0.25,
            False,
        )
        assert branch.gamma_regularizer.l2 == 0.125
        assert branch.compute_dtype == "bfloat16" and not branch.trainable
    assert copy.affine == "shared" and copy.name == "norm"


@pytest.mark.parametrize("affine", ["separate", "shared"])
def test_a_saved_model_gives_the_same_bits(affine, tmp_path):
    x, _ = arrays(*SHAPES[1])
    inputs = keras.Input(x.shape[1:])
    layer, _ = made(x.shape, affine=affine, name="norm")
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.variables) == len(model.variables) == (8 if affine == "separate" else 6)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    for training in (False, True):
        for domain in ("adv", "clean", 2):
            with scope.enter(domain):
                assert np.array_equal(model(x, training=training), loaded(x, training=training))
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())


def test_an_unknown_affine_is_refused():
    message = '^affine must be "separate" or "shared"; received \'none\'$'
    with pytest.raises(ValueError, match=message):
        MixtureBatchNormalization(affine="none")
