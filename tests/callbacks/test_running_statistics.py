"""The last epochs on running statistics (Section 4.3)."""

import re

import keras
import numpy as np
import pytest

import tfadv
from tests.training import cases
from tfadv import models
from tfadv.callbacks import AdversarialTraining, RunningStatistics

X, Y = cases.images(8)
MOVING = ("moving_mean", "moving_variance")


class Look(keras.callbacks.Callback):
    """The network's variables after every batch, and before the first one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.on_train_batch_end(None)

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append({v.path: v.numpy() for v in self.model.variables})


def fit(model, last_epochs, epochs, initial_epoch=0, ratio=1.0, **options):
    look = Look()
    model.fit(
        X,
        Y,
        batch_size=len(X),
        epochs=epochs,
        initial_epoch=initial_epoch,
        verbose=0,
        shuffle=False,
        callbacks=[
            AdversarialTraining(cases.Mirror(), clean_ratio=ratio, value_range=(0, 1), **options),
            RunningStatistics(last_epochs),
            look,
        ],
    )
    return look.seen


def moved(seen):
    """Returns whether the moving statistics moved in each update: all of them, or none."""
    moves = []
    for before, after in zip(seen, seen[1:], strict=False):
        changes = {
            bool(np.any(after[path] != before[path])) for path in after if path.endswith(MOVING)
        }
        assert len(changes) == 1
        moves.append(changes.pop())
    return moves


@pytest.mark.parametrize("norm", ["bn", "mbn", "keras"])
def test_statistics_stand_still_while_gamma_and_beta_learn(norm):
    model = cases.compiled(cases.normalized(norm))
    before, after = fit(model, last_epochs=1, epochs=1)
    for path, value in after.items():
        assert np.array_equal(value, before[path]) == path.endswith(MOVING), path


@pytest.mark.parametrize(
    ("norm", "ratio"), [("bn", 1.0), ("mbn", 1.0), ("mbn", 0.5), ("keras", 1.0)]
)
def test_trains_on_moving_statistics_not_on_those_of_the_batch(norm, ratio):
    model = cases.compiled(cases.normalized(norm), keras.optimizers.SGD(0.5))
    stay = cases.kept(len(X), ratio)
    count = len(X) + stay
    before = {v.path: v.numpy().astype("float64") for v in model.variables}
    slopes = {}
    for domain, x, y in (("adv", cases.mirrored(X), Y), ("clean", X[:stay], Y[:stay])):
        prefix = f"norm/{domain}/" if norm == "mbn" else "norm/"
        mean, variance, gamma, beta = (before[prefix + name] for name in (*MOVING, "gamma", "beta"))
        z = x.reshape(len(x), -1) @ before["dense/kernel"]
        normal = (z - mean) / np.sqrt(variance + 1e-5)
        outputs = (gamma * normal + beta) @ before["logits/kernel"] + before["logits/bias"]
        p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        slope = (p - cases.one_hot(y)) @ before["logits/kernel"].T / count
        for name, value in (("gamma", slope * normal), ("beta", slope)):
            slopes[prefix + name] = slopes.get(prefix + name, 0) + value.sum(axis=0)
    _, after = fit(model, last_epochs=1, epochs=1, ratio=ratio)
    for path, value in slopes.items():
        np.testing.assert_allclose(after[path], before[path] - 0.5 * value, atol=1e-6)


@pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")  # after three updates
@pytest.mark.parametrize(
    ("last_epochs", "epochs", "initial_epoch", "expected"),
    [
        (2, 5, 0, [True, True, True, False, False]),
        (0, 2, 0, [True, True]),
        (9, 2, 0, [False, False]),
        (2, 5, 2, [True, False, False]),  # continued before the switch
        (2, 5, 4, [False]),  # and after it
    ],
)
def test_switches_at_the_right_epoch(last_epochs, epochs, initial_epoch, expected):
    model = cases.compiled(cases.normalized("mbn"))
    assert moved(fit(model, last_epochs, epochs, initial_epoch)) == expected


def test_a_later_fit_trains_on_batch_statistics_again():
    model = cases.compiled(cases.normalized("bn"))
    fit(model, last_epochs=1, epochs=1)
    assert moved(fit(model, last_epochs=0, epochs=1)) == [True]
    before = {v.path: v.numpy() for v in model.variables}
    model.fit(X, Y, verbose=0)
    assert moved([before, {v.path: v.numpy() for v in model.variables}]) == [True]


def test_needs_batch_normalization():
    with pytest.raises(ValueError, match="needs a model with batch normalization"):
        fit(cases.compiled(cases.normalized("gn")), 1, 1)


class Subclassed(keras.Model):
    """Batch normalization in a model that is no graph, and in a functional one that it holds."""

    def __init__(self, inner, normalization):
        super().__init__()
        self.inner, self.normalize = inner, normalization

    def call(self, inputs, training=None):
        return self.normalize(self.inner(inputs, training=training), training=training)


def test_works_for_subclassed_models_with_our_batch_normalization():
    model = Subclassed(cases.normalized("bn"), tfadv.layers.BatchNormalization())
    model(X)
    assert moved(fit(cases.compiled(model), 1, 1)) == [False]
    before = {v.path: v.numpy() for v in model.variables}
    model.fit(X, Y, verbose=0)
    assert moved([before, {v.path: v.numpy() for v in model.variables}]) == [True]


@pytest.mark.parametrize("keras_inside", [True, False])
def test_refuses_that_of_keras_in_subclassed_models_before_it_trains(keras_inside):
    inner = cases.normalized("keras" if keras_inside else "bn")
    outer = tfadv.layers if keras_inside else keras.layers
    model = Subclassed(inner, outer.BatchNormalization())
    model(X)
    before = model.get_weights()
    with pytest.raises(ValueError, match="need tfadv.layers.BatchNormalization .* received Keras"):
        fit(cases.compiled(model), 1, 3)
    cases.assert_equal_bits(model.get_weights(), before)
    # The advice can be followed.
    model = Subclassed(
        models.convert(inner, "bn") if keras_inside else inner, tfadv.layers.BatchNormalization()
    )
    model(X)
    assert moved(fit(cases.compiled(model), 1, 1)) == [False]


def test_works_where_activations_are_computed_again():
    weights = []
    for rematerialize in ("none", "step"):
        keras.utils.set_random_seed(3)
        moved_already = keras.layers.BatchNormalization(moving_mean_initializer="ones")
        layers = [keras.layers.Dense(6), moved_already, keras.layers.ReLU()]
        model = cases.compiled(cases.network(*layers, keras.layers.Dense(6)))
        seen = fit(model, 1, 1, rematerialize=rematerialize)
        assert moved(seen) == [False]
        weights.append(model.get_weights())
    cases.assert_near(*weights)


def short(momentum, images=256, in_two_fits=False):
    """A training of some updates with a momentum, whose last epoch is on moving statistics."""
    keras.utils.set_random_seed(1)
    normalization = keras.layers.BatchNormalization(momentum=momentum, name="norm")
    model = cases.compiled(cases.network(keras.layers.Dense(8), normalization))
    x, y = cases.images(images)
    options = {"batch_size": 8, "verbose": 0}

    def fit(first, last):
        training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
        switch = [RunningStatistics(1)] if last == 3 else []
        model.fit(x, y, initial_epoch=first, epochs=last, callbacks=[training, *switch], **options)

    if in_two_fits:
        fit(0, 2)
    fit(2 if in_two_fits else 0, 3)


@pytest.mark.parametrize("in_two_fits, updates", [(False, "32 of the last"), (True, "64 so far")])
def test_warns_of_moving_statistics_that_have_not_reached_the_batches(in_two_fits, updates):
    message = (
        "from epoch 3 on moving statistics that have not reached .* in 'norm' .* by a factor of "
        rf"[1-9][.0-9]*\. Give the layers a lower momentum than 0.999, .* than the {updates}"
    )
    with cases.warnings_for_users() as warned:
        short(0.999, in_two_fits=in_two_fits)
    assert (
        len(warned) == 1
        and re.search(message, str(warned[0].message))
        and "\n" not in str(warned[0].message)
    )


def test_warns_of_nothing_where_they_have():
    short(0.9, in_two_fits=True)
    short(0.99, images=2048)


def test_warns_of_statistics_that_nothing_has_moved():
    model = cases.compiled(cases.network(keras.layers.BatchNormalization()))
    with cases.warnings_for_users() as warned:
        fit(model, 2, 2)
    assert "from epoch 1 on moving statistics that no update has" in str(warned[0].message)


def test_needs_adversarial_training_in_the_same_fit():
    model = cases.compiled(cases.normalized("bn"))
    message = "AdversarialTraining must come before this callback in the same fit"
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0, callbacks=[RunningStatistics()])
    training = AdversarialTraining(None)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0, callbacks=[RunningStatistics(), training])

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    # Nor is one of a fit that Ctrl-C has ended good enough, also if it comes later in this one.
    for callbacks in ([RunningStatistics()], [RunningStatistics(), training]):
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, verbose=0, callbacks=[training, Stop()])
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("last_epochs", [-1, 1.5, "ten"])
def test_refuses_other_numbers_of_epochs(last_epochs):
    with pytest.raises(ValueError, match="last_epochs must be an integer of at least 0"):
        RunningStatistics(last_epochs)
