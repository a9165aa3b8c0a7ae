"""The results of adversarial training through `fit`, in one process."""

import keras
import numpy as np
import pytest

from tests.training import cases
from tfadv.attacks import PGD
from tfadv.callbacks import AdversarialTraining

X, Y = cases.images(10)
still = keras.optimizers.SGD  # with a rate of 0, to see losses of known weights


def mixed(values, ratio=1.0, size=10):
    """Values of the adversarial and clean images, in the order of the mini-batches."""
    adversarial, clean = values
    parts = []
    for first in range(0, len(X), size):
        rows = slice(first, first + size)
        parts += [adversarial[rows], clean[rows][: cases.kept(len(X[rows]), ratio)]]
    return np.concatenate(parts)


def by_image(function):
    """`function(logits)` of the adversarial and of the clean images."""
    model = cases.network()
    return [function(cases.logits(model, x)) for x in (cases.mirrored(X), X)]


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.0])
def test_metrics_equal_a_count_by_hand(ratio):
    # Mini-batches of 4, 4 and a last one of 2, from arrays.
    model = cases.compiled(cases.network(), still(0.0), metrics=["accuracy"])
    logs = cases.train(model, X, Y, clean_ratio=ratio, fit={"batch_size": 4})
    losses = by_image(lambda z: cases.cross_entropy(z, Y))
    hits = by_image(lambda z: z.argmax(axis=1) == Y)
    aimed = by_image(lambda z: z.argmax(axis=1) == (Y + 1) % cases.CLASSES)[0]
    expected = {
        "accuracy": mixed(hits, ratio, 4),
        "loss": mixed(losses, ratio, 4),
        "adv_loss": losses[0],
        "adv_accuracy": hits[0],
        "attack_success": aimed,
    }
    if ratio:
        nothing = np.zeros(0)
        expected["clean_loss"] = mixed((nothing, losses[1]), ratio, 4)
        expected["clean_accuracy"] = mixed((nothing, hits[1]), ratio, 4)
    assert logs == pytest.approx({name: values.mean() for name, values in expected.items()})


def test_pgd_in_l2_attacks_as_computed_in_numpy():
    """One step from the image, of the length of epsilon, along the gradient of cross entropy."""
    model = cases.compiled(cases.network(), still(0.0))
    attack = PGD(0.2, 0.2, 1, targeted=False, start_from_clean=1.0, norm="l2")
    logs = cases.train(model, X, Y, attack)
    z = cases.logits(model, X)
    slope = np.exp(z) / np.exp(z).sum(1, keepdims=True) - cases.one_hot(Y)
    direction = (slope @ model.get_layer("logits").kernel.numpy().T).reshape(X.shape)
    direction /= np.sqrt((direction**2).sum((1, 2, 3), keepdims=True))
    adversarial = np.clip(X + 0.2 * direction, 0, 1)
    losses = [cases.cross_entropy(cases.logits(model, x), Y).mean() for x in (adversarial, X)]
    assert losses[0] > losses[1] + 0.1
    assert logs["adv_loss"] == pytest.approx(losses[0], abs=1e-5)
    assert logs["clean_loss"] == pytest.approx(losses[1], abs=1e-5)


def test_sample_and_class_weights():
    losses = by_image(lambda z: cases.cross_entropy(z, Y))
    weights = np.linspace(0.5, 2, len(X)).astype("float32")
    by_class = {label: 1.0 + label for label in range(cases.CLASSES)}
    for fit, weight in (
        ({"sample_weight": weights}, weights),
        ({"class_weight": by_class}, 1.0 + Y),
    ):
        model = cases.compiled(cases.network(), still(0.0))
        logs = cases.train(model, X, Y, fit=fit, clean_ratio=0.6)
        assert logs["loss"] == pytest.approx(mixed([loss * weight for loss in losses], 0.6).mean())


def test_one_hot_labels_with_smoothing_pairing_and_clean_weight():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model = cases.compiled(cases.network(), still(0.0), loss)
    logs = cases.train(
        model, X, cases.one_hot(Y), clean_ratio=0.6, clean_weight=0.3, pairing_weight=0.5
    )
    adversarial, clean = by_image(lambda z: cases.cross_entropy(z, Y, smoothing=0.1))
    z_adversarial, z_clean = by_image(lambda z: z[:6])
    pairing = np.square(z_adversarial - z_clean).mean()
    expected = 0.3 * clean[:6].mean() + 0.7 * adversarial.mean() + 0.5 * pairing
    assert logs["loss"] == pytest.approx(expected)
    assert logs["attack_success"] == pytest.approx(
        by_image(lambda z: z.argmax(axis=1) == (Y + 1) % cases.CLASSES)[0].mean()
    )


def test_clean_training_is_that_of_keras():
    ours, keras_own = cases.normalized("bn"), cases.normalized("keras")
    for model in (ours, keras_own):
        cases.compiled(model, metrics=["accuracy"])
    fit = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
    logs = ours.fit(X, Y, callbacks=[AdversarialTraining(None)], **fit).history
    expected = keras_own.fit(X, Y, **fit).history
    cases.assert_near(cases.state(ours), cases.state(keras_own))
    for name in ("loss", "accuracy"):
        assert logs[name] == pytest.approx(expected[name])
        assert logs[f"clean_{name}"] == pytest.approx(expected[name])
    assert set(logs) == {"loss", "accuracy", "clean_loss", "clean_accuracy"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.5, clipnorm=0.02),
        lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.03),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
        lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5),
        lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    ],
    ids=["clipnorm", "global_clipnorm", "adamw", "loss_scale", "ema", "accumulation"],
)
def test_any_optimizer_updates_as_in_keras(make):
    # Keras makes the same update when its batch is the whole mini-batch.
    model, twin = cases.network(), cases.network()
    cases.compiled(model, make())
    cases.compiled(twin, make())
    batches = [np.concatenate([cases.mirrored(x), x]) for x in np.split(X, 2)]
    labels = np.concatenate([np.tile(y, 2) for y in np.split(Y, 2)])
    cases.train(model, X, Y, fit={"batch_size": 5})
    twin.fit(np.concatenate(batches), labels, batch_size=10, shuffle=False, verbose=0)
    cases.assert_near(cases.state(model), cases.state(twin))


def test_loss_scale_skips_what_is_not_finite():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1e38)
    model = cases.compiled(cases.network(keras.layers.Rescaling(100.0)), optimizer)
    before = model.get_weights()
    cases.train(model, X, Y)
    cases.assert_equal_bits(model.get_weights(), before)
    assert float(optimizer.dynamic_scale) == pytest.approx(5e37)


def test_validation_is_plain():
    model = cases.compiled(cases.normalized("mbn"), metrics=["accuracy"])
    logs = cases.train(model, X, Y, fit={"validation_data": (X, Y), "batch_size": 5})
    assert set(logs) == cases.OURS | {"loss", "accuracy", "val_loss", "val_accuracy"}
    plain = model.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True)
    assert {name: logs[f"val_{name}"] for name in plain} == pytest.approx(plain)


def test_means_start_again_in_every_epoch():
    model = cases.compiled(cases.network(), still(0.0), metrics=["accuracy"])
    history = model.fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        callbacks=[AdversarialTraining(cases.Mirror(), value_range=(0, 1))],
    ).history
    for name, (first, second) in history.items():
        assert first == pytest.approx(second), name


def test_names_of_ours_are_no_metrics_of_the_model():
    model, seen = cases.compiled(cases.network(), metrics=["accuracy"]), []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(({metric.name for metric in self.model.metrics}, set(logs)))

    cases.train(model, X, Y, callbacks=[Look()])
    assert seen == [({"loss", "compile_metrics"}, cases.OURS | {"loss", "accuracy"})]
