import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import reference
from tfadv.layers import MixtureBatchNormalization, scope

N = 6
SHAPES = [(N, 3), (N, 5, 4, 3)]
SPLITS = [0, 1, 3, N - 1, N]
BRANCHES = ("adv", "clean")


def arrays(*shape, seed=0):
    """Images of two kinds, and upstream gradients: the halves differ in mean and variance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    x[: len(x) // 2] = 3 * x[: len(x) // 2] + 2
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def build(shape, affine="separate", statistics="separate", **options):
    """A mixture of random variables, and their values by branch."""
    layer = MixtureBatchNormalization(affine=affine, statistics=statistics, **options)
    layer.build((None, *shape[1:]))
    states = [reference.State.random(shape[options.get("axis", -1)], seed) for seed in (1, 2)]
    if affine == "shared":
        states[1].gamma, states[1].beta = states[0].gamma, states[0].beta
    if statistics == "shared":
        for name in ("moving_mean", "moving_variance"):
            setattr(states[1], name, getattr(states[0], name))
    branches = (layer.adv, layer.clean)
    return layer, [s.assign_to(branch) for s, branch in zip(states, branches, strict=True)]


def run(layer, x, upstream, domain, training=True, mask=None):
    """Outputs, and the gradients of the inputs and of gamma and beta of both branches."""
    branches = (layer.adv, layer.clean)
    variables = [v.value for branch in branches for v in (branch.gamma, branch.beta)]
    with scope.enter(domain):
        return reference.gradients(layer, x, upstream, variables, training=training, mask=mask)


def parts_of(domain):
    count = {"adv": N, "clean": 0}.get(domain, domain) if isinstance(domain, str) else int(domain)
    return slice(count), slice(count, None)


def train_apart(x, upstream, states, domain, mask=None, **options):
    """Two batch normalizations in NumPy, each on its own images."""
    masks = [None if mask is None else mask[part] for part in parts_of(domain)]
    return [
        reference.train(x[part], upstream[part], state, mask=part_mask, **options)
        for state, part, part_mask in zip(states, parts_of(domain), masks, strict=True)
    ]


def assert_close(layer, results, expected, tolerance=2e-5):
    close = dict(rtol=tolerance, atol=tolerance)
    outputs, d_inputs, *d_variables = results
    for name, actual in (("outputs", outputs), ("d_inputs", d_inputs)):
        joined = np.concatenate([getattr(part, name) for part in expected])
        np.testing.assert_allclose(actual, joined, **close, err_msg=name)
    slopes = [slope for part in expected for slope in (part.d_gamma, part.d_beta)]
    np.testing.assert_allclose(d_variables, slopes, **close)
    for branch, part in zip((layer.adv, layer.clean), expected, strict=True):
        # To the last bit where the branch had no images.
        limits = close if len(part.outputs) else dict(rtol=0, atol=0)
        for name in ("moving_mean", "moving_variance"):
            actual = getattr(branch, name).numpy()
            np.testing.assert_allclose(actual, getattr(part, name), **limits, err_msg=name)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("domain", [*SPLITS, *BRANCHES])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_equals_two_normalizations_apart(shape, domain, in_graph):
    x, upstream = arrays(*shape)
    layer, states = build(shape)

    def call(x, upstream):
        return run(layer, x, upstream, domain)

    if in_graph:  # which does not know how many images there are
        call = tf.function(call, input_signature=[tf.TensorSpec([None, *shape[1:]])] * 2)
    assert_close(layer, call(x, upstream), train_apart(x, upstream, states, domain))


@pytest.mark.parametrize("shape", SHAPES)
def test_one_trace_serves_every_split(shape):
    layer, _ = build(shape)
    images = tf.TensorSpec([None, *shape[1:]])

    @tf.function(input_signature=[images, images, tf.TensorSpec([], tf.int32)])
    def call(x, upstream, split):
        return run(layer, x, upstream, split)

    for split in SPLITS:
        x, upstream = arrays(*shape, seed=split)
        states = [reference.State.of(branch) for branch in (layer.adv, layer.clean)]
        results = call(x, upstream, split)
        # One image alone has variance 0, and 1 / sqrt(epsilon) = 316 magnifies float32's rounding.
        assert_close(layer, results, train_apart(x, upstream, states, split), tolerance=2e-4)
    assert call.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("domain", [0, "adv", tf.constant(0)], ids=str)
def test_a_batch_without_images_changes_nothing(shape, domain):
    layer, _ = build(shape)
    before = [variable.numpy() for variable in layer.variables]
    x, upstream = arrays(*shape)
    outputs, _, *d_variables = run(layer, x[:0], upstream[:0], domain)
    assert outputs.shape == (0, *shape[1:]) and not np.any(d_variables)
    for variable, value in zip(layer.variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)


def test_channels_first():
    x, upstream = arrays(N, 3, 4, 5)
    layer, states = build(x.shape, axis=1)
    results = run(layer, x, upstream, 2)
    assert_close(layer, results, train_apart(x, upstream, states, 2, axis=1))


@pytest.mark.parametrize("split", [0, 2, N])
def test_each_part_takes_its_part_of_the_mask(split):
    x, upstream = arrays(N, 7, 3)
    mask = np.random.default_rng(5).random((N, 7)) < 0.6
    layer, states = build(x.shape)
    results = run(layer, x, upstream, split, mask=tf.constant(mask))
    assert_close(layer, results, train_apart(x, upstream, states, split, mask=mask))


@pytest.mark.parametrize("domain", [*BRANCHES, 0, 2, N])
@pytest.mark.parametrize("shape", SHAPES)
def test_inference_and_running_statistics_are_those_of_each_branch(shape, domain):
    x, upstream = arrays(*shape)
    layer, states = build(shape)
    expected = [
        reference.infer(x[part], upstream[part], state)
        for state, part in zip(states, parts_of(domain), strict=True)
    ]
    assert_close(layer, run(layer, x, upstream, domain, training=False), expected)
    with scope.enter(domain, running_statistics=True):
        outputs = layer(x, training=True)
    np.testing.assert_allclose(outputs, np.concatenate([p.outputs for p in expected]), 2e-5, 2e-5)
    for branch, state in zip((layer.adv, layer.clean), states, strict=True):
        assert np.array_equal(branch.moving_mean, state.moving_mean)


@pytest.mark.parametrize("split", [N + 1, tf.constant(N + 1), np.int64(N + 1)], ids=type)
def test_more_adversarial_images_than_images_are_an_error(split):
    layer, _ = build(SHAPES[0])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)), scope.enter(split):
        layer(arrays(*SHAPES[0])[0])


@pytest.mark.parametrize("split", [np.int64(3), np.array(3), tf.constant(3, tf.int64)], ids=type)
def test_the_split_may_be_any_integer(split):
    x, upstream = arrays(*SHAPES[0])
    layer, states = build(x.shape)
    assert_close(layer, run(layer, x, upstream, split), train_apart(x, upstream, states, 3))


def test_without_a_scope_it_is_the_adv_branch():
    x, _ = arrays(*SHAPES[1])
    layer, _ = build(x.shape)
    assert np.array_equal(layer(x), layer.adv(x))
    assert not np.allclose(layer(x), layer.clean(x), atol=0.1)


@pytest.mark.parametrize("split", [0, 2, N])
@pytest.mark.parametrize("shape", SHAPES)
def test_shared_gamma_and_beta_learn_from_both_parts(shape, split):
    x, upstream = arrays(*shape)
    layer, states = build(shape, affine="shared")
    assert layer.adv.gamma is layer.clean.gamma and layer.adv.beta is layer.clean.beta
    assert len(layer.trainable_variables) == 2 and len(layer.variables) == 6
    results = run(layer, x, upstream, split)
    expected = train_apart(x, upstream, states, split)
    for name in ("d_gamma", "d_beta"):
        total = sum(getattr(part, name) for part in expected)
        for part in expected:
            setattr(part, name, total)
    assert_close(layer, results, expected, tolerance=1e-4)


def scaled_by_branch(x, upstream, states, split, mask=None):
    """In NumPy: the whole batch is normalized at once, and each part has its gamma and beta.

    Gamma and beta are one number for each image and channel in the equations of one batch
    normalization whose own gamma is 1 and beta 0.
    """
    branch_of = (np.arange(N) >= split).astype(int)
    axes = tuple(range(1, x.ndim - 1))
    gammas = np.stack([states[b].gamma for b in branch_of]).reshape(N, *[1] * len(axes), -1)
    betas = np.stack([states[b].beta for b in branch_of]).reshape(gammas.shape)
    plain = reference.State(
        np.ones(x.shape[-1]),
        np.zeros(x.shape[-1]),
        states[0].moving_mean,
        states[0].moving_variance,
    )
    whole = reference.train(x, upstream * gammas, plain, mask=mask)
    slopes = []
    for b in (0, 1):
        part = branch_of == b
        slopes.append((upstream[part] * whole.outputs[part]).sum(axis=(0, *axes)))
        slopes.append(upstream[part].sum(axis=(0, *axes)))
    return whole, gammas * whole.outputs + betas, slopes


@pytest.mark.parametrize("split", [0, 2, tf.constant(4), N])
@pytest.mark.parametrize("shape", SHAPES)
def test_shared_statistics_are_those_of_the_whole_batch(shape, split):
    x, upstream = arrays(*shape)
    layer, states = build(shape, statistics="shared")
    assert layer.adv.moving_mean is layer.clean.moving_mean
    assert len(layer.trainable_variables) == 4 and len(layer.variables) == 6
    outputs, d_inputs, *d_variables = run(layer, x, upstream, split)
    whole, expected, slopes = scaled_by_branch(x, upstream, states, int(split))
    np.testing.assert_allclose(outputs, expected, 2e-5, 2e-5)
    np.testing.assert_allclose(d_inputs, whole.d_inputs, 2e-4, 2e-5)
    np.testing.assert_allclose(d_variables, slopes, 2e-4, 2e-5)
    np.testing.assert_allclose(layer.adv.moving_mean, whole.moving_mean, 2e-5, 2e-5)
    np.testing.assert_allclose(layer.adv.moving_variance, whole.moving_variance, 2e-5, 2e-5)


@pytest.mark.parametrize("axis", [1, -1])
def test_shared_statistics_along_either_axis(axis):
    x, upstream = arrays(N, 3, 4, 5)
    layer, _ = build(x.shape, statistics="shared", axis=axis)
    other, _ = build(x.shape, statistics="shared", axis=axis, affine="shared")
    other.set_weights(layer.get_weights()[:4])
    for domain in (2, "adv"):
        with scope.enter(domain):
            outputs = layer(x, training=True), other(x, training=True)
            part = slice(2 if domain == 2 else N)  # the adv branch has the shared gamma and beta
            np.testing.assert_allclose(outputs[0][part], outputs[1][part], 1e-5, 1e-5)
    np.testing.assert_array_equal(layer.adv.moving_mean, other.adv.moving_mean)


def test_shared_statistics_apart_move_one_after_the_other():
    x, upstream = arrays(*SHAPES[1])
    layer, states = build(x.shape, statistics="shared")
    with scope.enter(2, apart=True):
        outputs = layer(x, training=True)
    first = reference.train(x[:2], upstream[:2], states[0])
    states[1].moving_mean, states[1].moving_variance = first.moving_mean, first.moving_variance
    second = reference.train(x[2:], upstream[2:], states[1])
    np.testing.assert_allclose(outputs, np.concatenate([first.outputs, second.outputs]), 2e-5, 2e-5)
    np.testing.assert_allclose(layer.clean.moving_mean, second.moving_mean, 2e-5, 2e-5)
    np.testing.assert_allclose(layer.clean.moving_variance, second.moving_variance, 2e-5, 2e-5)


@pytest.mark.parametrize("affine,factor", [("shared", 1), ("separate", 2)])
def test_a_shared_gamma_is_regularized_once(affine, factor):
    layer = MixtureBatchNormalization(affine=affine, gamma_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([keras.Input((3,)), layer])
    assert sum(float(loss) for loss in model.losses) == factor * 0.5 * 3


@pytest.mark.parametrize("how", ["argument", "attribute", "config"])
def test_a_frozen_mixture_uses_its_moving_statistics(how):
    x, _ = arrays(*SHAPES[1])
    layer, states = build(x.shape, trainable=how != "argument")
    layer.trainable = False
    if how == "config":  # as in a reloaded file
        weights = layer.get_weights()
        layer = MixtureBatchNormalization.from_config(layer.get_config())
        layer.build(x.shape)
        layer.set_weights(weights)
    with scope.enter(2):
        assert np.array_equal(layer(x, training=True), layer(x, training=False))
    assert np.array_equal(layer.adv.moving_mean, states[0].moving_mean)
    assert layer.trainable_variables == []


def test_it_compiles_with_xla_for_one_domain():
    x, _ = arrays(*SHAPES[1])
    layer, _ = build(x.shape)

    @tf.function(jit_compile=True)
    def clean(x):
        with scope.enter("clean"):
            return layer(x)

    np.testing.assert_allclose(clean(x), layer.clean(x), 1e-5, 1e-5)


def test_the_config_reaches_both_branches():
    options = dict(axis=1, momentum=0.5, epsilon=0.25, center=False, dtype="mixed_bfloat16")
    options |= dict(gamma_regularizer=keras.regularizers.L2(0.125), trainable=False)
    config = MixtureBatchNormalization(affine="shared", name="norm", **options).get_config()
    copy = MixtureBatchNormalization.from_config(config)
    assert copy.get_config() == config and (copy.affine, copy.name) == ("shared", "norm")
    for branch in (copy.adv, copy.clean):
        assert (branch.axis, branch.momentum, branch.epsilon, branch.center) == (1, 0.5, 0.25, 0)
        assert branch.gamma_regularizer.l2 == 0.125
        assert branch.compute_dtype == "bfloat16" and not branch.trainable


@pytest.mark.parametrize("affine", ["separate", "shared"])
@pytest.mark.parametrize("statistics", ["separate", "shared"])
def test_a_saved_model_gives_the_same_bits(affine, statistics, tmp_path):
    x, _ = arrays(*SHAPES[1])
    layer, _ = build(x.shape, affine=affine, statistics=statistics, name="norm")
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.variables) == 8 - 2 * (affine, statistics).count("shared")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    for domain in (*BRANCHES, 2):
        with scope.enter(domain):
            assert np.array_equal(model(x, training=True), loaded(x, training=True))
            assert np.array_equal(model(x), loaded(x))


def test_refused_options():
    message = '^affine must be "separate" or "shared"; received \'none\'$'
    with pytest.raises(ValueError, match=message):
        MixtureBatchNormalization(affine="none")
    with pytest.raises(ValueError, match='^statistics must be "separate" or "shared"; received 1$'):
        MixtureBatchNormalization(statistics=1)
