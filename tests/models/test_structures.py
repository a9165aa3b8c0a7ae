"""Models whose one input or output stands in a dictionary or list, as Keras allows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv import evaluation, models
from tfadv.callbacks import AdversarialTraining, RobustEvaluation
from tfadv.models import structures

X, Y = cases.images(12)
ATTACK = tfadv.attacks.PGD(epsilon=30, num_steps=2)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Subclassed(keras.Model):
    """Takes and returns dictionaries, and does not say so."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=None):
        return {"logits": self.inner(inputs["image"], training=training)}


def functional(inputs, outputs, softmax=False):
    inner = cases.normalized("mbn")
    inner.name = "logits"  # by which Keras 3.10 finds the metrics of an output
    image = keras.Input(cases.SHAPE, name="image")
    logits = inner(image)
    if softmax:
        logits = keras.layers.Softmax()(logits)
    return keras.Model(inputs(image), outputs(logits))


def subclassed():
    model = Subclassed(cases.normalized("mbn"))
    model({"image": X[:2]})
    return model


def alone(tensor):
    return tensor


def image(tensor):
    return {"image": tensor}


def logits(tensor):
    return {"logits": tensor}


def listed(tensor):
    return [tensor]


# Kind -> a function that builds the model, and those that structure its images and its labels.
MODELS = {
    "input": (lambda: functional(image, alone), image, alone),
    "output": (lambda: functional(alone, logits), alone, logits),
    "both": (lambda: functional(image, logits), image, logits),
    "lists": (lambda: functional(listed, listed), alone, alone),
    "subclassed": (subclassed, image, logits),
}


def compiled(kind):
    make, of_images, of_labels = MODELS[kind]
    model = make()
    loss = {"logits": LOSS} if of_labels is logits else LOSS
    metrics = {"logits": ["accuracy"]} if of_labels is logits else ["accuracy"]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    return model, of_images(X), of_labels(Y)


def plain():
    return cases.compiled(cases.normalized("mbn"), metrics=["accuracy"])


@pytest.mark.parametrize("kind", MODELS)
def test_trains_and_is_evaluated_as_one_without(kind):
    results = []
    for model, x, y in (compiled(kind), (plain(), X, Y)):
        callbacks = [
            AdversarialTraining(ATTACK, value_range=(0, 1), accumulation_steps=2),
            RobustEvaluation((x, y), ATTACK, value_range=(0, 1)),
        ]
        history = model.fit(x, y, batch_size=6, shuffle=False, verbose=0, callbacks=callbacks)
        [clean, attacked] = evaluation.evaluate(model, (x, y), ATTACK, value_range=(0, 1))
        assert history.history["val_pgd2_accuracy"] == [attacked.accuracy]
        results.append((model.get_weights(), list(history.history.values())))
    (weights, logs), (expected, expected_logs) = results
    cases.assert_near(weights, expected)
    np.testing.assert_allclose(logs, expected_logs, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "domain"), [*((kind, "adv") for kind in MODELS), ("both", "clean")]
)
def test_attacks_take_it_in_every_form(kind, domain):
    (model, _, _), twin = compiled(kind), plain()

    def attacked(network):
        return ATTACK(network, X, Y, value_range=(0, 1), seed=(0, 0))

    expected = attacked(lambda x: models.call(twin, x, domain=domain))
    networks = [
        lambda x: models.call(model, x, domain=domain),
        models.Frozen(model, domain),
        models.Frozen(models.logits(model), domain),
    ]
    if domain == "adv" and kind != "subclassed":
        networks.append(models.logits(model))  # a Keras model of its own
    for network in networks:
        np.testing.assert_allclose(attacked(network), expected, atol=1e-6)


def test_logits_leave_out_dictionaries_and_softmax():
    model = functional(image, logits, softmax=True)
    np.testing.assert_allclose(models.logits(model)(X), models.call(plain(), X), rtol=1e-5)
    assert not models.ends_in_logits(model)
    model = functional(image, logits)
    np.testing.assert_allclose(models.logits(model)(X), models.call(plain(), X), rtol=1e-5)
    assert models.ends_in_logits(model)


def test_pairs_logits_in_a_dictionary():
    (model, x, y), twin = compiled("both"), plain()
    logs = cases.train(model, x, y, pairing_weight=0.5, fit={"batch_size": 12})
    assert logs["loss"] == pytest.approx(cases.train(twin, X, Y, pairing_weight=0.5)["loss"])


def test_evaluates_a_tf_data_dataset_of_dictionaries():
    model, x, y = compiled("both")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    correct = [evaluation.evaluate(model, each)[0].correct for each in (data, (x, y))]
    assert correct[0] == correct[1]


def test_several_are_refused_by_name():
    inputs = {name: keras.Input(cases.SHAPE, name=name) for name in ("a", "b")}
    added = keras.layers.Flatten()(keras.layers.Add()(list(inputs.values())))
    several = keras.Model(inputs, keras.layers.Dense(4)(added))
    with pytest.raises(ValueError, match="has 2 inputs: 'a', 'b'$"):
        evaluation.evaluate(several, (X, Y))
    x = keras.Input(cases.SHAPE)
    heads = {name: keras.layers.Dense(4)(keras.layers.Flatten()(x)) for name in ("one", "two")}
    model = cases.compiled(keras.Model(x, heads), loss={"one": LOSS, "two": LOSS})
    with pytest.raises(ValueError, match="has 2 outputs: 'one', 'two'$"):
        cases.train(model, X, {"one": Y, "two": Y})


class TwoHeads(Subclassed):
    def call(self, inputs, training=None):
        return {"first": self.inner(inputs), "second": self.inner(inputs)}


def test_several_outputs_of_a_subclassed_model_are_refused_by_name():
    model = TwoHeads(cases.network())
    model(X)
    message = "the output of model .* must be one tensor, .* received 2: 'first', 'second'$"
    for use in (
        lambda: models.call(model, X),
        lambda: evaluation.evaluate(model, (X, Y)),
        lambda: cases.train(cases.compiled(model), X, Y, None),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_data_of_several_are_refused_by_name():
    with pytest.raises(ValueError, match="^images or labels must be one .* 2: 'a', 'b'$"):
        evaluation.evaluate(plain(), ({"a": X, "b": X}, Y))
    model, _, _ = compiled("input")
    with pytest.raises(ValueError, match="^weights must be one tensor, .* received 2"):
        cases.train(model, image(X), Y, fit={"sample_weight": {"a": Y, "b": Y}})


def test_a_single_tensor_is_itself():
    assert structures.single(7, "it") == structures.single([{"a": 7}], "it") == 7
    assert structures.single(None, "it") is None
    assert structures.like({"a": [0]}, 7) == {"a": [7]}
    with pytest.raises(ValueError, match="^it must be one tensor, .* of one; received 0$"):
        structures.single([], "it")
