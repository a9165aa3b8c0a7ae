"""Models and arguments that adversarial training takes, and those that it refuses in one line."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv.callbacks import AdversarialTraining

X, Y = cases.images(10)


def real(**options):
    return tfadv.attacks.PGD(**{"epsilon": 30, "num_steps": 2, **options})


def photos(count=4):
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (count, 32, 32, 3)).astype("float32"), rng.integers(0, 5, count)


def mobilenet():
    keras.utils.set_random_seed(1)
    return keras.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, classes=5)


class Recording(tfadv.attacks.PGD):
    """PGD that remembers how far the images are from where they started."""

    def __call__(self, logits_fn, images, labels, **options):
        adversarial, goals = super().__call__(logits_fn, images, labels, **options)
        untouched, _ = self.start(
            images, labels, options["num_classes"], options["seed"], options["value_range"]
        )
        self.moved.assign(tf.reduce_mean(tf.abs(adversarial - untouched)))
        return adversarial, goals


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("plain batch normalization", marks=pytest.mark.slow),
        "nested, with a mixture",
    ],
)
def test_softmax_model_of_keras_applications_trains_by_the_callback_alone(form):
    x, y = photos()
    model = mobilenet()
    if form != "plain batch normalization":
        inputs = keras.Input((32, 32, 3))
        model = tfadv.models.convert(keras.Model(inputs, model(inputs)), "mbn")
    loss = keras.losses.SparseCategoricalCrossentropy()  # of probabilities
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    before = [variable.numpy() for variable in model.trainable_variables]
    attack = Recording(epsilon=16, step_size=2, num_steps=3, step_size_rule="fixed")
    Recording.moved = tf.Variable(0.0, trainable=False)
    logs = cases.train(model, x, y, attack, value_range=(-1, 1))
    # A pixel of 255 is 2/255 here. Through the softmax no gradient would have moved any; with
    # it, three steps of 2 move most pixels by 6 where the ball does not end before.
    assert 2.5 * 2 / 255 < float(attack.moved) <= 6 * 2 / 255
    assert set(logs) == cases.OURS | {"loss", "accuracy"} and np.isfinite(list(logs.values())).all()
    changed = [
        np.any(new != old) for new, old in zip(model.trainable_variables, before, strict=True)
    ]
    assert np.mean(changed) > 0.95
    # The model still ends in its softmax.
    np.testing.assert_allclose(np.sum(model(x), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "pgd"}, "attack must be a tfadv.attacks.Attack or None; received 'pgd'"),
        ({"clean_ratio": 1.5}, "clean_ratio must be between 0 and 1; received 1.5"),
        ({"compression": "fp8"}, "compression must be one of 'none', 'fp16'; received 'fp8'"),
        ({"rematerialize": "half"}, "rematerialize must be one of 'none', 'step', 'all'; received"),
        ({"clean_weight": 2}, "clean_weight must be between 0 and 1; received 2"),
        ({"clean_weight": 0.5, "clean_ratio": 0}, "clean_weight must not be given without"),
        ({"pairing_weight": -1}, "pairing_weight must be between 0 and inf; received -1"),
        ({"pairing_weight": 0.5, "clean_ratio": 0}, "pairing_weight must not be given without"),
        ({"pairing_weight": 0.5, "attack": None}, "pairing_weight must not be given without"),
        ({"batch_statistics": "both"}, "batch_statistics must be one of 'together', 'apart'"),
        (
            {"batch_statistics": "apart", "clean_ratio": 0},
            "batch_statistics must not be given without",
        ),
        ({"accumulation_steps": 0}, "accumulation_steps must be an integer of at least 1"),
        ({"accumulation_steps": 1.5}, "accumulation_steps must be an integer .* received 1.5"),
        (
            {"accumulation_steps": 4, "attack_parts": 3},
            "attack_parts must divide accumulation_steps=4; received 3",
        ),
        (
            {"accumulation_steps": 4, "attack_parts": 2, "attack": cases.Mirror()},
            "attack_parts must be 1 for Mirror, which takes no keys for parts",
        ),
        ({"seed": -1}, "seed must be an integer of at least 0; received -1"),
    ],
)
def test_refuses_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        AdversarialTraining(**{"attack": real(), **options})
    assert "\n" not in str(raised.value)


def two(*, inputs=1, outputs=1):
    """A model of several inputs or outputs."""
    images = [keras.Input(cases.SHAPE) for _ in range(inputs)]
    x = keras.layers.Flatten()(keras.layers.Add()(images) if inputs > 1 else images[0])
    logits = [keras.layers.Dense(4)(x) for _ in range(outputs)]
    return keras.Model(images if inputs > 1 else images[0], logits)


def ending(*layers, dtype=None):
    return keras.Sequential([keras.Input(cases.SHAPE, dtype=dtype), *layers])


def distributed():
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        return cases.network()


def softmax():
    return ending(cases.network(), keras.layers.Softmax())


def binary():
    return ending(keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid"))


def of_integers():
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(4)]
    return ending(*layers, dtype="uint8")


def hard_sigmoid():
    return ending(cases.network(), keras.layers.Activation("hard_sigmoid"))


def unbuilt():
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])


def subclassed(kind):
    inner = cases.network()
    return kind(inner.inputs, inner.outputs)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: two(outputs=2), {}, "model must have one input .* has 2 outputs"),
        (lambda: two(inputs=2), {}, "model must have one input .* has 2 inputs"),
        (unbuilt, {}, "model must be built before AdversarialTraining, .* keras.Input"),
        (cases.network, {"value_range": None}, "value_range must be given"),
        (
            softmax,
            {"pairing_weight": 1},
            "pairing_weight must be 0 for a model that ends in a s",
        ),
        (
            lambda: cases.normalized("mbn"),
            {"batch_statistics": "apart"},
            "batch_statistics must be 'together' for a model with mixtures of .* has 'norm'",
        ),
        (
            lambda: cases.normalized("keras"),
            {"batch_statistics": "apart"},
            "batch_statistics='apart' needs tfadv.layers.BatchNormalization; .* Keras's 'norm'",
        ),
        (distributed, {}, "with Horovod, not with tf.distribute; received .* OneDeviceStrategy"),
        (cases.network, {"accumulation_steps": 3}, "accumulation_steps=3 for batches of 10"),
        (
            binary,
            {},
            "^model must have an output for each of at least two classes; .* has only one",
        ),
        (of_integers, {}, "^model must take floating-point images to be attacked; .* is uint8, .*"),
        (hard_sigmoid, {}, "^model must end in logits to be attacked; .* ends in hard_sigmoid"),
        (
            lambda: subclassed(OwnStep),
            {},
            "AdversarialTraining makes the train_step itself .* OwnStep .* into compute_loss",
        ),
    ],
)
def test_refuses_a_model_that_it_cannot_train(make, options, message):
    model = cases.compiled(make(), loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message) as raised:
        cases.train(model, X, Y, real(), **options)
    assert "\n" not in str(raised.value)
    if "accumulation_steps" not in options:
        assert getattr(model.train_function, "callback", None) is None  # as good as before


def test_refuses_steps_per_execution_of_several_workers(monkeypatch):
    monkeypatch.setattr("tfadv.distributed.size", lambda: 2)
    model = cases.compiled(cases.network(), steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution must be 1 .* received 2"):
        cases.train(model, X, Y)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_wrong_range_or_label_stops_it_in_one_line(accumulation_steps):
    # Inside a graph, whose own error is a page that ends in this line.
    model = cases.compiled(cases.network())
    for x, y, message in (
        (X * 255, Y, r"^images must lie inside value_range=\(0, 1\); .* are \S+ 25\d\.\d+$"),
        (X, Y + 1, r"^labels must lie between 0 and 3; their minimum and maximum are \d 4$"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            cases.train(model, x, y, real(), accumulation_steps=accumulation_steps)
        assert "\n" not in str(raised.value) and raised.value.__suppress_context__


def warned(model, x, message=None, **options):
    """Trains for two epochs: exactly one warning, of this message; or none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            cases.train(model, x, Y, real(), **options)
    texts = [str(each.message) for each in caught if each.category is UserWarning]
    assert len(texts) == (message is not None)
    assert message is None or texts[0].startswith(message)


def test_images_scaled_to_another_range_are_named_once():
    model = cases.compiled(cases.network())
    pixels = {"value_range": (0, 255)}
    warned(model, X, value_range=(0, 1))
    warned(model, 255 * X, **pixels)
    warned(model, 0 * X, **pixels)
    # The first batch is black, and the next is not.
    x = np.where(np.arange(len(X))[:, None, None, None] < 5, 0, X)
    message = "images lie between 0 and 0.9"
    warned(model, x, message, fit={"batch_size": 5}, **pixels)


class Hidden(keras.Model):
    """Ends in a sigmoid that no graph shows."""

    def __init__(self, activation="sigmoid"):
        super().__init__()
        self.inner = cases.network()
        self.end = keras.layers.Activation(activation)

    def call(self, images, training=False):
        return self.end(self.inner(images, training=training))


def test_outputs_that_are_not_logits_are_named_once():
    def hidden(activation):
        model = Hidden(activation)
        model(X)
        return cases.compiled(model, loss="sparse_categorical_crossentropy")

    warned(hidden("linear"), X)
    warned(hidden("sigmoid"), X, "logits_fn must return logits, but all that it returned lie")


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_final_activation_is_left_out_of_the_attack(activation):
    model = ending(cases.network(), keras.layers.Activation(activation))
    warned(cases.compiled(model, loss="sparse_categorical_crossentropy"), X)


def test_refuses_a_train_step_of_the_object_and_leaves_it():
    model = cases.compiled(cases.network())
    model.train_step = lambda data: {}
    with pytest.raises(ValueError, match="would drop that of Functional"):
        cases.train(model, X, Y)
    assert model.train_step(None) == {}


class ThroughKeras(keras.Model):
    """Methods that do more than Keras's, and train as Keras does."""

    def fit(self, x, y, **options):
        return super().fit(x[:-2], y[:-2], **options)

    def make_train_function(self, force=False):
        super().make_train_function(force)
        function = self.train_function
        self.train_function = lambda iterator: function(iterator)

    def test_step(self, data):
        return {**super().test_step(data), "own": 7.0}


def test_methods_that_train_through_keras_work():
    model = cases.compiled(subclassed(ThroughKeras))
    logs = cases.train(model, X, Y, fit={"batch_size": 4, "validation_data": (X, Y)})
    assert set(logs) == cases.OURS | {"loss", "val_loss", "val_own"}
    assert int(model.optimizer.iterations) == 2
    # The validation uses the model's own test_step.
    assert logs["val_own"] == 7.0


class OwnFit(keras.Model):
    """Trains in a loop of its own."""

    def fit(self, x, y, callbacks, **_):
        callbacks = keras.callbacks.CallbackList(callbacks, model=self, epochs=1, steps=1)
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0)
        callbacks.on_train_batch_begin(0)
        callbacks.on_train_batch_end(0, self.train_on_batch(x, y, return_dict=True))


class OwnFunction(keras.Model):
    def make_train_function(self, force=False):
        self.train_function = lambda iterator: {"loss": 0.0}


class LateStep(keras.Model):
    """Looks `train_step` up when it traces, as Keras did up to 3.6: ours is gone by then."""

    def make_train_function(self, force=False):
        step = tf.function(lambda data: self.train_step(data))
        self.train_function = lambda iterator: step(next(iterator))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (OwnFit, "fit"),
        (OwnFunction, "make_train_function"),
        (LateStep, "make_train_function"),
    ],
)
def test_refuses_methods_that_train_without_it(kind, method):
    with pytest.raises(ValueError, match=f"the {method} of {kind.__name__} .* must train") as error:
        cases.train(cases.compiled(subclassed(kind)), X, Y)
    assert "\n" not in str(error.value)


def test_refuses_a_second_one_in_the_same_fit():
    message = "one fit must have one AdversarialTraining; received several"
    again = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    with pytest.raises(ValueError, match=message):
        cases.train(cases.compiled(cases.network()), X, Y, callbacks=[[again]])
    with pytest.raises(ValueError, match=message):
        model = cases.compiled(cases.network())
        model.fit(X, Y, verbose=0, callbacks=[again, again])
    # One after the other, they may be many; or one, which an exception has taken out of a `fit`.
    model = cases.compiled(cases.network())
    cases.train(model, X, Y)
    cases.train(model, X, Y)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0, callbacks=[again, Stop()])
    model.fit(X, Y, verbose=0, callbacks=[again])


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt
