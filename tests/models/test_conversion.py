import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import chains
from tfadv import layers, models
from tfadv.layers import BatchNormalization, InputContract, MixtureBatchNormalization

PLAIN = keras.layers.BatchNormalization
by_form = pytest.mark.parametrize("form", chains.CLONEABLE, ids=lambda form: form.__name__)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)


def kinds(model, kind):
    return [layer for layer in model._flatten_layers() if type(layer) is kind]


def mobilenet():
    model = keras.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, classes=7)
    rng = np.random.default_rng(0)
    momentum = [layer.momentum for layer in kinds(model, PLAIN)]
    # Near the statistics of its images, or 52 layers would lose them on the way.
    for layer in kinds(model, PLAIN):
        layer.momentum = 0.0
    model(pixels(8, 32, 32, 3, seed=5), training=True)
    for layer, value in zip(kinds(model, PLAIN), momentum, strict=True):
        layer.momentum = value
        weights = [w * rng.uniform(0.8, 1.2, w.shape) for w in layer.get_weights()]
        weights[1] = rng.normal(size=weights[1].shape) * 0.1
        layer.set_weights(weights)
    return model


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@by_form
@pytest.mark.parametrize(
    "norm,kind", [("bn", BatchNormalization), ("mbn", MixtureBatchNormalization)]
)
def test_inference_stays_the_same(form, norm, kind):
    model, x = chains.scramble(form(PLAIN)), chains.images()
    converted = models.convert(model, norm)
    assert type(converted) is type(model) and converted.name == model.name
    assert {layer.name for layer in kinds(converted, kind)} == {"norm0", "norm1"}
    assert not kinds(converted, PLAIN)
    for domain in ("adv", "clean", 2):
        close(models.call(converted, x, domain=domain), model(x))
    # Nothing is shared: the copy can train, and the model stays what it was.
    expected = model(x).numpy()
    chains.scramble(converted, seed=9)
    assert np.array_equal(model(x), expected)


@by_form
@pytest.mark.parametrize("norm", ["gn", "ln", "in"])
def test_other_normalizations_take_gamma_and_beta(form, norm):
    model, x = chains.scramble(form(PLAIN)), chains.images()
    converted = chains.by_name(models.convert(model, norm))
    outputs = x
    for name, old in chains.by_name(model).items():
        new = converted[name]
        for ours, theirs in zip(new.get_weights(), old.get_weights(), strict=False):
            assert np.array_equal(ours, theirs)
        if "norm" in name:
            assert new.groups == {"gn": 2, "ln": 1, "in": 4}[norm] and new.epsilon == 1e-5
            assert len(new.weights) == 2
        outputs = new(outputs)
    close(models.convert(model, norm)(x), outputs)


def test_all_52_of_mobilenet_there_and_back():
    model, x = mobilenet(), pixels(4, 32, 32, 3)
    converted = models.convert(model, "mbn")
    assert len(kinds(model, PLAIN)) == len(kinds(converted, MixtureBatchNormalization)) == 52
    for domain in ("adv", "clean"):
        close(models.call(converted, x, domain=domain), model(x))
    chains.scramble_mixtures(converted)
    extracted = models.extract(converted, "clean")
    assert_plain(extracted)
    assert len(kinds(extracted, PLAIN)) == 52
    expected = models.call(converted, x, domain="clean")
    close(extracted(x), expected)
    for other in (expected[::-1], model(x)):  # or everything would be equal
        assert np.abs(expected - other).max() > 1e-3


def test_group_normalization_below_a_sequential_model():
    """Where Keras records that the layers were called with `mask=None`."""
    body = keras.applications.MobileNetV2((32, 32, 3), weights=None, include_top=False)
    model = keras.Sequential([keras.Input((32, 32, 3)), body, keras.layers.Flatten()])
    converted = models.convert(model, "gn")
    assert len(kinds(converted, layers.GroupNormalization)) == 52
    assert np.isfinite(converted(pixels(1, 32, 32, 3))).all()


def test_options_are_kept():
    inputs = keras.Input((3, 4, 5))
    layer = PLAIN(
        axis=1,
        momentum=0.75,
        epsilon=0.125,
        center=False,
        gamma_regularizer=keras.regularizers.L2(0.5),
        gamma_constraint="non_neg",
        moving_mean_initializer="ones",
        name="norm",
        dtype="mixed_bfloat16",
    )
    model = keras.Model(inputs, layer(inputs))
    for norm in ("bn", "mbn"):
        config = models.convert(model, norm).get_layer("norm").get_config()
        old = layer.get_config()
        same = set(config) - {"affine", "statistics"}
        assert {name: config[name] for name in same} == {name: old[name] for name in same}
    group = models.convert(model, "gn").get_layer("norm")
    assert group.axis == 1 and group.beta is None and group.gamma_regularizer.l2 == 0.5
    assert group.compute_dtype == "bfloat16"


@pytest.mark.parametrize("norm", ["bn", "mbn", "gn"])
def test_frozen_layers_stay_frozen(norm):
    model, x = chains.scramble(chains.nested(PLAIN)), chains.images()
    chains.by_name(model)["norm0"].trainable = False
    chains.by_name(model)["dense"].trainable = False
    converted = models.convert(model, norm)
    trainable = {name: layer.trainable for name, layer in chains.by_name(converted).items()}
    assert [name for name, value in trainable.items() if not value] == ["norm0", "dense"]
    if norm == "mbn":
        layer = chains.by_name(converted)["norm0"]
        before = layer.get_weights()
        models.call(converted, x, training=True, domain=2)
        assert all(map(np.array_equal, before, layer.get_weights()))


@pytest.mark.parametrize("how", ["layer", "model"])
def test_extraction_keeps_frozen_layers_frozen(how):
    model = chains.nested()
    layer = model if how == "model" else chains.by_name(model)["norm1"]
    layer.trainable = False
    extracted = models.extract(model, "adv")
    assert not chains.by_name(extracted)["norm1"].trainable
    assert chains.by_name(extracted)["norm0"].trainable == (how == "layer")


def test_a_compiled_model():
    """Its copy is not compiled, also where the loss cannot be copied."""
    model = chains.scramble(chains.nested(PLAIN))
    body = model.layers[2]
    body.compile("sgd", "mse")
    model.compile("adam", lambda labels, outputs: keras.ops.mean(outputs))
    optimizer = model.optimizer
    converted = models.convert(model, "mbn")
    assert not converted.compiled and not any(
        layer.compiled for layer in converted._flatten_layers() if isinstance(layer, keras.Model)
    )
    assert model.compiled and body.compiled and model.optimizer is optimizer
    model.fit(chains.images(), np.zeros(6), verbose=0)
    assert not models.extract(converted, "adv").compiled


class Frozen(keras.layers.Layer):
    """A layer with state but without batch normalization."""

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[1:], trainable=False)

    def call(self, x):
        return x + self.shift


def test_graphs_with_operations_shared_layers_and_several_inputs():
    norm, dense = PLAIN(), keras.layers.Dense(4)
    body = keras.Sequential([keras.Input((4,)), dense, norm])
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    x = keras.ops.tanh(body(first)) * 2 + Frozen()(body(second))[:, ::-1]
    x = keras.layers.Concatenate()([norm(x), keras.ops.concatenate([x, first], axis=-1)])
    model = chains.scramble(keras.Model([first, second], [x, keras.layers.Dense(2)(x)]))
    inputs = [pixels(3, 4), pixels(3, 4, seed=1)]
    converted = models.convert(model, "mbn")
    assert len(converted.weights) == len(model.weights) + 4  # one mixture, in three places
    for copy in (converted, models.extract(converted, "clean")):
        for actual, expected in zip(copy(inputs), model(inputs), strict=True):
            close(actual, expected)
    before = model.get_config()
    models.convert(model, "bn")
    assert model.get_config() == before


def test_an_adapted_normalization_layer_is_copied():
    """It computes with constants beside its weights; EfficientNet begins with one."""
    adapted = keras.layers.Normalization()
    adapted.adapt(7 + 3 * np.random.default_rng(0).normal(size=(100, 3)))
    model = keras.Sequential([keras.Input((3,)), adapted, PLAIN()])
    x = pixels(4, 3)
    close(models.convert(model, "mbn")(x), model(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = PLAIN(name="norm")

    def call(self, x):
        return self.norm(x)


NEEDS_RENORM = pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="needs Keras 3.14",
)


def wrong(kind):
    inputs = keras.Input((5, 3))
    if kind == "subclassed":
        model = Subclassed()
        model(np.zeros((2, 5, 3)))
        return model
    if kind == "inside subclassed":
        return keras.Model(inputs, wrong("subclassed")(inputs))
    if kind == "wrapped":
        return keras.Model(inputs, keras.layers.TimeDistributed(PLAIN(name="norm"))(inputs))
    if kind == "none":
        return keras.Model(inputs, keras.layers.Dense(2)(inputs), name="nothing")
    if kind == "unbuilt":
        return keras.Sequential([PLAIN()], name="empty")
    if kind == "mixture":
        return keras.Model(inputs, MixtureBatchNormalization()(inputs), name="mixed")
    options = {"synchronized": {"synchronized": True}, "renorm": {"renorm": True}}[kind]
    return keras.Model(inputs, PLAIN(name="norm", **options)(inputs))


@pytest.mark.parametrize(
    "kind,message",
    [
        ("subclassed", "must be functional or sequential .*; received the subclassed Subclassed"),
        ("inside subclassed", "'.*norm' lies in a Subclassed$"),
        ("wrapped", "'.*norm' lies in a TimeDistributed$"),
        ("none", "model must have batch normalization to convert; 'nothing' has none$"),
        ("unbuilt", "model must be built to be cloned, .*; 'empty' is not built$"),
        ("mixture", "model must hold plain batch normalization; 'mixed' has mixtures"),
        ("synchronized", "layer 'norm' has renorm=False, synchronized=True$"),
        pytest.param(
            "renorm", "layer 'norm' has renorm=True, synchronized=False$", marks=NEEDS_RENORM
        ),
    ],
)
def test_what_cannot_be_converted(kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        models.convert(wrong(kind), "mbn")
    assert "\n" not in str(caught.value)


class Unsaved(keras.layers.Layer):
    """Forgets its argument."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"name": "unsaved"}


def lambdas_are_copied():
    """Whether this Keras copies the code of a Lambda layer, which newer ones refuse as unsafe."""
    try:
        keras.layers.Lambda.from_config(keras.layers.Lambda(lambda x: x).get_config())
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("copy", [models.convert, models.extract])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "layer,message",
    [
        pytest.param(
            lambda: keras.layers.Lambda(lambda x: 2 * x, name="twice"),
            r"received '.*twice', of class Lambda \(write its function as a layer ",
            marks=pytest.mark.skipif(lambdas_are_copied(), reason="needs a newer Keras"),
        ),
        (
            lambda: Unsaved(2, name="unsaved"),
            r"received '.*unsaved', of class Unsaved \(TypeError: .*'factor'\)$",
        ),
    ],
)
def test_a_layer_that_cannot_be_copied_is_named(copy, nested, layer, message):
    parts = [(PLAIN if copy is models.convert else MixtureBatchNormalization)(), layer()]
    parts = [keras.Sequential(parts)] if nested else parts
    model = keras.Sequential([keras.Input((4,)), *parts])
    with pytest.raises(ValueError, match="^every layer must be one .* get_config; " + message) as e:
        copy(model, "mbn" if copy is models.convert else "adv")
    assert "\n" not in str(e.value)


def test_what_cannot_be_extracted():
    with pytest.raises(ValueError, match="received the subclassed Subclassed"):
        models.extract(wrong("subclassed"), "adv")
    with pytest.raises(ValueError, match='^domain must be "adv" or "clean"; received 2$'):
        models.extract(chains.flat(), 2)
    with pytest.raises(ValueError, match="^norm must be one of bn, .*; received 'batch'$"):
        models.convert(chains.flat(PLAIN), "batch")


# --- What extract gives: plain Keras.


def contracted(policy, affine="separate"):
    """A model as ours are: contract, convolution, mixtures, logits without an activation."""
    inputs = keras.Input((8, 8, 3))
    x = InputContract(dtype=policy)(inputs)
    x = keras.layers.Conv2D(4, 3, dtype=policy)(x)
    body = chains.functional(
        [MixtureBatchNormalization(dtype=policy, affine=affine), keras.layers.ReLU(dtype=policy)],
        (6, 6, 4),
    )
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(body(x))
    outputs = keras.layers.Dense(2, activation="softmax", dtype="float32")(x)
    return chains.scramble(keras.Model(inputs, outputs))


def assert_plain(model):
    for layer in model._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer


@by_form
@pytest.mark.parametrize("domain", ["adv", "clean"])
def test_extraction_equals_the_branch(form, domain):
    model, x = chains.scramble(form()), chains.images()
    extracted = models.extract(model, domain)
    assert_plain(extracted)
    assert {layer.name for layer in kinds(extracted, PLAIN)} == {"norm0", "norm1"}
    assert np.array_equal(extracted(x), models.call(model, x, domain=domain))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("affine", ["separate", "shared"])
def test_extraction_gives_the_same_bits_under_every_policy(policy, affine):
    model = contracted(policy, affine)
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")
    outputs = {}
    for domain in ("adv", "clean"):
        extracted = models.extract(model, domain)
        assert_plain(extracted)
        outputs[domain] = extracted(x).numpy()
        assert np.array_equal(outputs[domain], models.call(model, x, domain=domain))
    assert np.abs(outputs["adv"] - outputs["clean"]).max() > 1e-3


def test_our_own_batch_normalization_is_extracted_too():
    model, x = chains.scramble(chains.nested(BatchNormalization)), chains.images()
    extracted = models.extract(model, "adv")
    assert_plain(extracted)
    close(extracted(x), model(x))


def test_extracted_models_need_no_tfadv(tmp_path):
    """They load in a process that never imports it, and export."""
    mixed = contracted("mixed_bfloat16")
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")
    cases = {
        "adv": (mixed, "adv", x),
        "clean": (mixed, "clean", x),
        "logits": (models.logits(mixed), "clean", x),
    }
    for name, (model, domain, inputs) in cases.items():
        models.extract(model, domain).save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", inputs)
    program = (
        "import sys, pathlib, keras, numpy\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.keras'):\n"
        "    outputs = keras.models.load_model(path)(numpy.load(path.with_suffix('.npy')))\n"
        "    numpy.save(path.with_suffix('.outputs.npy'), outputs)\n"
        "assert not any(name.startswith('tfadv') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, cwd=tmp_path)
    for name, (model, domain, inputs) in cases.items():
        expected = models.call(model, inputs, domain=domain)
        close(np.load(tmp_path / f"{name}.outputs.npy"), expected)


def test_extracted_models_export(tmp_path):
    model = contracted("float32")
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")
    for domain in ("adv", "clean"):
        models.extract(model, domain).export(tmp_path / domain, verbose=False)
        loaded = tf.saved_model.load(tmp_path / domain)
        close(loaded.serve(x), models.call(model, x, domain=domain))
