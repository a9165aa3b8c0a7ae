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


def build(end, form="flat"):
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
    model, _ = build(end)
    check(model, images())
    model.save(tmp_path / "model.keras")
    check(keras.models.load_model(tmp_path / "model.keras"), images())


@pytest.mark.parametrize("end", ["activation", "softmax layer"])
@pytest.mark.parametrize("form", ["nested", "sequential", "sequential in sequential"])
def test_nested_models(form, end, tmp_path):
    model, _ = build(end, form)
    check(model, images())
    model.save(tmp_path / "model.keras")
    check(keras.models.load_model(tmp_path / "model.keras"), images())


@pytest.mark.parametrize("end", ["activation", "operation"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_gradients_flow_where_the_softmax_stops_them(end, form):
    model, _ = build(end, form)
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
    model, layers = build("activation")
    outputs = models.logits(model)
    assert {id(variable) for variable in outputs.variables} == {id(v) for v in model.variables}
    layers["dense"].bias.assign_add([100.0] * CLASSES)
    np.testing.assert_allclose(outputs(images()), by_hand(images()) + 100, 1e-4, 1e-3)


@pytest.mark.parametrize("form", ["flat", "nested", "sequential"])
def test_the_model_is_left_as_it_was(form):
    model, layers = build("activation", form)

    def look():
        return model.get_config(), [len(layer._inbound_nodes) for layer in model._flatten_layers()]

    before = look()
    for _ in range(2):
        models.logits(model)(images())
    assert look() == before
    assert layers["dense"].activation is keras.activations.softmax


def test_an_exception_leaves_the_activation():
    model, layers = build("activation")
    outputs = models.logits(model)
    with pytest.raises(ValueError):
        outputs(images()[:, :2])
    with pytest.raises(ValueError):
        outputs.layers[-1](images()[:, :2])
    assert layers["dense"].activation is keras.activations.softmax


# Increasing functions, by NumPy; the last one of each head is what `logits` takes off.
INCREASING = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "log_sigmoid": lambda z: -np.logaddexp(0, -z),
    "tanh": np.tanh,
    "softsign": lambda z: z / (1 + abs(z)),
}


def increasing(name, form):
    """The forms in which a last activation is given."""
    activation, dense = getattr(keras.activations, name), keras.layers.Dense(CLASSES, name="dense")
    ends = {
        "activation": [keras.layers.Dense(CLASSES, activation=name, name="dense")],
        "layer": [dense, keras.layers.Activation(activation)],
        "operation": [dense, getattr(keras.ops, name)],
        "of TensorFlow": [dense, keras.layers.Activation(getattr(tf.math, name, tf.nn.softsign))],
        "lambda layer": [dense, keras.layers.Lambda(activation)],
        "nested": [chains.functional([dense, keras.layers.Activation(name)], (FEATURES,))],
        "before what is inactive": [
            dense,
            keras.layers.Activation(name),
            keras.layers.Dropout(0.5),
            keras.layers.Activation("linear", dtype="float32"),
        ],
    }
    model = chains.functional([keras.layers.Identity(), *ends[form]], (FEATURES,))
    layers = {layer.name: layer for layer in model._flatten_layers()}
    kernel, bias = weights()
    layers["dense"].set_weights([kernel / 50, bias])
    return model, images() @ (kernel / 50) + bias


@pytest.mark.parametrize("name", list(INCREASING))
@pytest.mark.parametrize(
    "form",
    ["activation", "layer", "operation", "of TensorFlow", "lambda layer", "nested"]
    + ["before what is inactive"],
)
def test_every_increasing_activation(form, name):
    model, expected = increasing(name, form)
    np.testing.assert_allclose(model(images()), INCREASING[name](expected), 1e-3, 1e-5)
    outputs = models.logits(model)
    np.testing.assert_allclose(outputs(images()), expected, 1e-4, 1e-5)
    shared = [{id(each) for each in made.trainable_variables} for made in (outputs, model)]
    assert shared[0] == shared[1]
    assert models.final_activation(model) == name
    assert models.logits(outputs) is outputs and models.final_activation(outputs) is None
    models.check_outputs(model)


def test_an_activation_that_a_layer_needs_is_left_in_it():
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, keras.layers.LSTM(4)(inputs))
    assert models.logits(model) is model


@pytest.mark.parametrize(
    "layer,name",
    [
        (keras.layers.Activation("hard_sigmoid"), "hard_sigmoid"),
        (keras.layers.Dense(3, activation="hard_tanh"), "hard_tanh"),
        (keras.layers.Activation("relu6"), "relu6"),
        (keras.layers.ReLU(max_value=1), "relu with a max_value"),
        (keras.layers.Activation("sparse_sigmoid"), "sparse_sigmoid"),
    ],
)
def test_what_cannot_be_left_out_is_refused_only_where_it_is_attacked(layer, name):
    model = chains.functional([keras.layers.Dense(3), layer], (2,))
    assert models.logits(model) is model
    models.check_outputs(model, attacked=False)
    for each in (model, chains.functional([model], (2,))):
        with pytest.raises(ValueError, match=f"^model must end in logits .* ends in {name}, which"):
            models.check_outputs(each)


def test_a_binary_classifier_of_one_unit_is_refused():
    model = chains.functional([keras.layers.Dense(1, activation="sigmoid")], (2,))
    for attacked in (True, False):
        with pytest.raises(ValueError, match="^model must have an output for each of at least two"):
            models.check_outputs(model, attacked)


def test_integer_images_are_refused_where_they_are_attacked():
    inputs = keras.Input((2,), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Rescaling(1 / 255)(inputs)))
    models.check_outputs(model, attacked=False)
    with pytest.raises(ValueError, match="^model must take float.* is uint8, .* cast the images"):
        models.check_outputs(model)


@pytest.mark.parametrize("activation", [None, "relu", "softplus", "log_softmax"])
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
    model, _ = build("activation", form)
    outputs = models.logits(model)
    outputs.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    for domain in ("adv", "clean"):
        expected = models.call(outputs, images(), domain=domain)
        assert np.array_equal(models.call(loaded, images(), domain=domain), expected)
        extracted = models.extract(outputs, domain)
        np.testing.assert_allclose(extracted(images()), expected, 1e-5, 1e-3)
