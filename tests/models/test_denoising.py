"""Denoising networks against NumPy and hand counts; and what the rest of tfadv does with them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.models.chains import scramble_mixtures
from tests.training import cases
from tfadv import layers, models
from tfadv.layers import GroupedConv2D
from tfadv.models import ResNetDenoise, ResNeXtDenoiseAll, blocks
from tfadv.tables import networks

TINY = dict(depth=11, blocks=(2, 1), num_classes=5, image_size=32, width=4, seed=3)
TINIER = dict(depth=8, blocks=(1, 1))
GROUPS = dict(cardinality=2, group_width=3)
NETWORKS = {
    "gaussian": lambda **options: ResNetDenoise(**{**TINY, **options}),
    "dot_product": lambda **options: ResNeXtDenoiseAll(**{**TINY, **GROUPS, **options}),
}
by_kind = pytest.mark.parametrize("kind", NETWORKS)
# What each network's denoising blocks follow. Of 64 positions (res2) and 16 (res3), to 16 and 32
# channels: the three matrices of the dot-product version are multiplied in either order.
PLACES = {
    "gaussian": {"res2_block1_out": "res2_denoise", "res3_block0_out": "res3_denoise"},
    "dot_product": {
        f"{name}_out": f"{name}_denoise" for name in ("res2_block0", "res2_block1", "res3_block0")
    },
}


def pixels(count=3, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, 32, 32, 3)).astype("float32")


def awake(model):
    """Gives every parameter and statistic a value of its own, so that no branch is silent."""
    rng = np.random.default_rng(7)
    for variable in model.variables:
        if "kernel" not in variable.path:
            low = -0.5 if variable.path.endswith(("beta", "mean", "bias")) else 0.5
            variable.assign(rng.uniform(low, 1.5, variable.shape))
        elif "theta" in variable.path or "phi" in variable.path:
            variable.assign(rng.normal(size=variable.shape))  # weights that are far from equal
    # Near the statistics of the images: the dot-product version cubes what it is given.
    norms = [layer for layer in model.layers if "norm" in layer.name]
    for layer in norms:
        layer.momentum = 0.0
    model(pixels(8, seed=5), training=True)
    for layer in norms:
        layer.momentum = 0.9
        layer.moving_mean.assign(layer.moving_mean + rng.normal(size=layer.moving_mean.shape) / 10)
    return model


def between(model, kind, images, training=False):
    """Returns the inputs and the outputs of every denoising block of a network."""
    places = PLACES[kind].items()
    tensors = [
        [model.get_layer(name).output for name in (before, f"{block}_out")]
        for before, block in places
    ]
    with layers.scope.enter("adv"):
        outputs = keras.Model(model.input, tensors)(images, training=training)
    return [(block, *pair) for (_, block), pair in zip(places, outputs, strict=True)]


# --- Architecture


@by_kind
def test_denoising_blocks_equal_numpy(kind):
    model = awake(NETWORKS[kind]())

    def convolved(x, name):
        return x @ np.asarray(model.get_layer(name).kernel, "float64")[0, 0]

    for name, before, after in between(model, kind, pixels()):
        x = np.asarray(before, "float64").reshape(len(before), -1, before.shape[-1])
        if kind == "gaussian":
            theta, phi = (convolved(x, f"{name}_{which}") for which in ("theta", "phi"))
            assert theta.shape[-1] == phi.shape[-1] == x.shape[-1] // 2
            logits = np.einsum("nic,njc->nij", theta, phi) / np.sqrt(theta.shape[-1])
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            assert weights.max() > 3 * weights.mean()
        else:
            weights = np.einsum("nic,njc->nij", x, x) / x.shape[1]
        y = convolved(np.einsum("nij,njc->nic", weights, x), f"{name}_conv")
        gamma, beta, mean, variance = model.get_layer(f"{name}_norm").get_weights()
        y = gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta
        assert np.std(y) > 0.1 * np.std(x)
        expected = (x + y).reshape(before.shape)
        np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@by_kind
@pytest.mark.parametrize("norm", ["bn", "mbn", "gn"])
def test_denoising_blocks_start_as_the_identity(kind, norm):
    model = NETWORKS[kind](norm=norm)
    for training in (False, True):
        for _, before, after in between(model, kind, pixels(), training):
            assert np.std(before) > 0
            np.testing.assert_array_equal(after, before)


@by_kind
def test_the_rest_is_the_resnet(kind):
    """Its names and its initial weights; and a network starts as the one without denoising."""
    model = NETWORKS[kind]()
    plain = models.ResNet(**TINY, **(GROUPS if kind == "dot_product" else {}))
    new = [layer.name for layer in model.layers if "_denoise" in layer.name]
    assert [layer.name for layer in model.layers if layer.name not in new] == [
        layer.name for layer in plain.layers
    ]
    parts = ["theta", "phi"] if kind == "gaussian" else []
    parts += ["means", "conv", "norm", "out"]
    assert sorted(new) == sorted(f"{b}_{part}" for b in PLACES[kind].values() for part in parts)
    np.testing.assert_array_equal(model(pixels()), plain(pixels()))


def test_embeddings_start_small_and_without_a_bias():
    model = NETWORKS["gaussian"](width=16)
    for name in ("res2_denoise_theta", "res3_denoise_phi"):
        layer = model.get_layer(name)
        values = layer.kernel.numpy() / 0.01
        assert not layer.use_bias and layer.kernel.regularizer is not None
        assert abs(values.std() - 1) < 5 / np.sqrt(2 * values.size)


@by_kind
def test_a_block_is_what_lies_between_two_outs(kind):
    """Everything flows through each of them; Keras refuses a model cut where it does not."""
    model = NETWORKS[kind]()
    outs = [layer for layer in model.layers if layer.name.endswith("_out")]
    assert len(outs) == 3 + len(PLACES[kind])
    for out in outs:
        rest = keras.Model(out.output, model.output)
        head = keras.Model(model.input, out.output)
        assert len(rest.layers) + len(head.layers) == len(model.layers) + 1  # an input of its own
    with pytest.raises(ValueError):
        keras.Model(model.get_layer("res2_block1_add").output, [model.get_layer("norm0").output])


def count(model, chosen):
    return sum(
        int(np.prod(variable.shape))
        for variable in model.trainable_variables
        if chosen(variable.path)
    )


def test_parameter_counts(monkeypatch):
    monkeypatch.setattr(blocks.Maker, "_initializer", lambda *_: "zeros")  # faster
    channels = (256, 512, 1024, 2048)
    model = ResNetDenoise(152, image_size=32)
    # Two embeddings, one convolution, gamma and beta.
    expected = sum(2 * c * (c // 2) + c * c + 2 * c for c in channels)
    assert count(model, lambda path: "denoise" in path) == expected == 11_148_800
    assert count(model, lambda path: "denoise" not in path) == 60_192_808  # ResNet-152, published
    assert count(model, bool) == 71_341_608
    # And two moving statistics for each gamma and beta.
    statistics = model.count_params() - count(model, bool)
    assert statistics == count(model, lambda path: path.endswith(("gamma", "beta")))

    model = ResNeXtDenoiseAll(image_size=32)
    assert model.name == "resnext_denoise_all101"
    repeats = (3, 4, 23, 3)
    expected = sum(n * (c * c + 2 * c) for n, c in zip(repeats, channels, strict=True))
    assert count(model, lambda path: "denoise" in path) == expected == 38_010_368
    # torchvision's resnext101_32x8d.
    assert count(model, lambda path: "denoise" not in path) == 88_791_336
    assert model.output_shape == (None, 1000)


def test_width_scales_the_groups():
    for width, inner in ((4, 32), (16, 64)):
        model = ResNeXtDenoiseAll(**{**TINY, "width": width})
        conv = model.get_layer("res2_block0_conv2")
        assert isinstance(conv, GroupedConv2D) and (conv.groups, conv.filters) == (32, inner)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, depth, new", [(ResNetDenoise, 638, 4), (ResNeXtDenoiseAll, 638, 212)]
)
def test_the_deepest_networks(make, depth, new):
    """Keras's recursion reaches the image from the logits of every depth of the table."""
    groups = GROUPS if make is ResNeXtDenoiseAll else {}
    model = make(depth, num_classes=5, image_size=32, width=4, **groups)
    assert sum(layer.name.endswith("_denoise_out") for layer in model.layers) == new
    assert np.isfinite(model(pixels(1))).all()


@by_kind
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"depth": 12}, r"depth must be 3 \* sum\(blocks\) \+ 2 = 11 .* received 12"),
        ({"norm": "batch"}, "norm must be one of bn, .*; received 'batch'"),
        ({"image_size": 31}, "image_size of resnet must be at least 32 pixels; received 31"),
        ({"width": 0}, "width must be an integer of at least 1; received 0"),
    ],
)
def test_refusals(kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[kind](**wrong)


def test_the_table_of_networks():
    for network in ("resnet_denoise", "resnext_denoise_all"):
        assert networks.check(network, 101, 224) == (3, 4, 23, 3)
        with pytest.raises(ValueError, match=f"depth of {network} must be .*; received 100"):
            networks.check(network, 100, 224)
        with pytest.raises(ValueError, match=f"image_size of {network} must be at least 32"):
            networks.check(network, 101, 31)


# --- What the rest of tfadv does with them


@by_kind
def test_convert_extract_logits_and_files(kind, tmp_path):
    model = awake(NETWORKS[kind](**TINIER))
    mixed = scramble_mixtures(models.convert(model, "mbn"))
    norms = {layer.name for layer in models.mixtures(mixed) if "_denoise_norm" in layer.name}
    assert len(norms) == 2
    mixed.save(tmp_path / "mixed.keras")
    loaded = keras.models.load_model(tmp_path / "mixed.keras")
    assert models.ends_in_logits(loaded)
    softmax = keras.Model(loaded.input, keras.layers.Softmax()(loaded.output))
    outputs = {}
    for domain in ("adv", "clean"):
        expected = outputs[domain] = models.call(mixed, pixels(), domain=domain).numpy()
        np.testing.assert_array_equal(models.call(loaded, pixels(), domain=domain), expected)
        actual = models.call(models.logits(softmax), pixels(), domain=domain)
        np.testing.assert_array_equal(actual, expected)
        extracted = models.extract(loaded, domain)
        assert "tfadv" not in extracted.to_json()
        np.testing.assert_allclose(extracted(pixels()), expected, rtol=1e-5, atol=1e-5)
    extracted.save(tmp_path / "plain.keras")
    again = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(again(pixels(2)), outputs["clean"][:2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["adv"], model(pixels()), rtol=1e-5, atol=1e-5)
    assert np.abs(outputs["adv"] - outputs["clean"]).max() > 1e-3
    paths = {record.path for record in tfadv.inspection.statistics(loaded)}
    assert norms < paths


@by_kind
def test_adversarial_training(kind):
    model = NETWORKS[kind](norm="mbn", **TINIER)
    for variable in model.trainable_variables:
        if variable.path.endswith("gamma"):
            variable.assign(np.ones(variable.shape))
    model.get_layer("logits").kernel.assign(30 * model.get_layer("logits").kernel)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    cases.compiled(model, keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    before = {variable.path: variable.numpy() for variable in model.variables}
    attack = tfadv.attacks.PGD(epsilon=16, step_size=8, num_steps=2)
    logs = cases.train(model, pixels(4), np.arange(4), attack, value_range=None)
    assert set(logs) == cases.OURS | {"loss", "accuracy"} and np.isfinite(list(logs.values())).all()
    for variable in model.variables:
        assert np.isfinite(variable.numpy()).all()
        assert np.any(variable.numpy() != before[variable.path]), variable.path


@by_kind
def test_bfloat16(kind):
    model = awake(NETWORKS[kind](**TINIER))
    expected = model(pixels()).numpy()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = NETWORKS[kind](norm="mbn", **TINIER)
    finally:
        keras.config.set_dtype_policy(before)
    for layer, reference in zip(half.layers, model.layers, strict=True):
        for part in (layer.adv, layer.clean) if "norm" in layer.name else (layer,):
            part.set_weights(reference.get_weights())
    assert half.get_layer("res2_block0_out").output.dtype == "bfloat16"
    outputs = half(pixels())
    assert outputs.dtype == "float32"
    # A few percent of the logits: each of some thirty layers rounds to 8 bits.
    assert np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    extracted = models.extract(half, "adv")(pixels())
    # TensorFlow 2.17 rounds within Keras's own operations.
    old = tf.version.VERSION.startswith("2.17.")
    tolerance = 0.05 * np.abs(expected).max() if old else 1e-5
    np.testing.assert_allclose(extracted, outputs, rtol=1e-5, atol=tolerance)
