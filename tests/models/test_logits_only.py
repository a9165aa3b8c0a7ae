import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import chains
from tfadv import models
from tfadv.layers import MixtureBatchNormalization

FEATURES, CLASSES = 5, 4


def weights():
    """So large that the softmax is one-hot in float32."""
    rng = np.random.default_rng(0)
    return 50 * rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=CLASSES)


def images():
    return np.random.default_rng(1).normal(size=(6, FEATURES)).astype("float32")


def head(end):
    """Functions that end a network: a dense layer, and a softmax in one of its forms."""
    dense = functools.partial(keras.layers.Dense, CLASSES, name="dense")
    return {
        "activation": [dense(activation="softmax")],
        "softmax layer": [dense(), keras.layers.Softmax()],
        "activation layer": [dense(), keras.layers.Activation("softmax")],
        "operation": [dense(), keras.ops.softmax],
        "function": [dense(), keras.activations.softmax],
        "float32 activation": [dense(), keras.layers.Activation("softmax", dtype="float32")],
    }[end]


ENDS = list(
    ["activation", "softmax layer", "activation layer", "operation", "function"]
    + ["float32 activation"]
)


def made(end, form="flat"):
    shape = (FEATURES,)
    parts = [MixtureBatchNormalization(name="norm"), *head(end)]
    if form == "flat":
        model = chains.functional(parts, shape)
    elif form == "nested":
        model = chains.functional(
            [parts[0], chains.functional([chains.functional(parts[1:], shape)], shape)], shape
        )
    elif form == "sequential":
        model = keras.Sequential([keras.Input(shape), *parts])
    else:
        model = keras.Sequential([keras.Input(shape), keras.Sequential(parts)])
    layers = {layer.name: layer for layer in model._flatten_layers()}
    layers["dense"].set_weights(weights())
    # Both branches change their inputs, each in its own way.
    layers["norm"].adv.beta.assign([0.5] * FEATURES)
    layers["norm"].clean.moving_mean.assign([2.0] * FEATURES)
    return model, layers


def by_hand(x, domain="adv"):
    kernel, bias = weights()
    shift = 0.5 if domain == "adv" else -2.0
    return (x / np.sqrt(1 + 1e-5) + shift) @ kernel + bias


def check(model, x):
    outputs = models.logits(model)
    assert outputs is not model
    np.testing.assert_allclose(outputs(x), by_hand(x), 1e-4, 1e-3)
    np.testing.assert_allclose(
        models.call(outputs, x, domain="clean"), by_hand(x, "clean"), 1e-4, 1e-3
    )
    # The model itself still gives probabilities.
    np.testing.assert_allclose(np.sum(model(x), axis=-1), 1, 1e-5)


@pytest.mark.parametrize("end", ENDS)
def test_every_kind_of_softmax(end, tmp_path):
    model, _ = made(end)
    check(model, images())
    model.save(tmp_path / "model.keras")
    check(keras.models.load_model(tmp_path / "model.keras"), images())


@pytest.mark.parametrize("end", ["activation", "softmax layer"])
@pytest.mark.parametrize("form", ["nested", "sequential", "sequential in sequential"])
def test_nested_models(form, end, tmp_path):
    model, _ = made(end, form)
    check(model, images())
    model.save(tmp_path / "model.keras")
    check(keras.models.load_model(tmp_path / "model.keras"), images())


@pytest.mark.parametrize("end", ["activation", "operation"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_gradients_flow_where_the_softmax_stops_them(end, form):
    model, _ = made(end, form)
    x = tf.constant(images())
    outputs = by_hand(images())
    # Towards the least probable class, as a targeted attack goes.
    labels = np.argmin(outputs, axis=-1)

    def gradient(model, from_logits):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits, reduction="sum")
            value = loss(labels, tf.function(model)(x))
        return tape.gradient(value, x).numpy()

    softmax = np.exp(outputs - outputs.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    expected = (softmax - np.eye(CLASSES)[labels]) @ weights()[0].T / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(gradient(models.logits(model), True), expected, 1e-3, 1e-3)
    assert np.abs(expected).min(-1).max() > 1


def test_weights_are_shared():
    model, layers = made("activation")
    outputs = models.logits(model)
    assert {id(variable) for variable in outputs.variables} == {id(v) for v in model.variables}
    layers["dense"].bias.assign_add([100.0] * CLASSES)
    np.testing.assert_allclose(outputs(images()), by_hand(images()) + 100, 1e-4, 1e-3)


@pytest.mark.parametrize("form", ["flat", "nested", "sequential"])
def test_the_model_is_left_as_it_was(form):
    model, layers = made("activation", form)

    def look():
        return model.get_config(), [len(layer._inbound_nodes) for layer in model._flatten_layers()]

    before = look()
    for _ in range(2):
        models.logits(model)(images())
    assert look() == before
    assert layers["dense"].activation is keras.activations.softmax


def test_an_exception_leaves_the_activation():
    model, layers = made("activation")
    outputs = models.logits(model)
    with pytest.raises(ValueError):
        outputs(images()[:, :2])
    with pytest.raises(ValueError):
        outputs.layers[-1](images()[:, :2])
    assert layers["dense"].activation is keras.activations.softmax


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "log_softmax"])
def test_other_models_are_returned_as_they_are(activation):
    dense = keras.layers.Dense(3, activation=activation)
    model = keras.Sequential([keras.Input((2,)), dense])
    assert models.logits(model) is model
    outer = chains.functional([model], (2,))
    assert models.logits(outer) is outer


def test_a_softmax_inside_is_no_end():
    model = chains.functional([keras.layers.Softmax(), keras.layers.Dense(2)], (3,))
    assert models.logits(model) is model


def test_a_subclassed_model_is_returned_as_it_is():
    model = chains.subclassed()
    assert models.logits(model) is model


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_the_logits_model_saves_and_extracts(form, tmp_path):
    model, _ = made("activation", form)
    outputs = models.logits(model)
    outputs.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    for domain in ("adv", "clean"):
        expected = models.call(outputs, images(), domain=domain)
        assert np.array_equal(models.call(loaded, images(), domain=domain), expected)
        extracted = models.extract(outputs, domain)
        np.testing.assert_allclose(extracted(images()), expected, 1e-5, 1e-3)
