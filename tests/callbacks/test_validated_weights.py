"""Callbacks that look at a model between epochs see the weights that Keras validates."""

import json
import re

import keras
import numpy as np
import pytest

import tfadv
from tests.training import cases
from tfadv import callbacks, evaluation
from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints

X, Y = cases.images(48)
ATTACK = tfadv.attacks.PGD(epsilon=8, num_steps=2)
Swap = keras.callbacks.SwapEMAWeights


def compiled(norm="bn"):
    keras.utils.clear_session()
    # So large a rate that averages and weights are far apart.
    optimizer = keras.optimizers.SGD(2.0, momentum=0.9, use_ema=True, ema_momentum=0.9)
    return cases.compiled(cases.normalized(norm), optimizer, metrics=["accuracy"])


def fit(model, others, epochs=3, progress=None, validation_data=(X, Y)):
    progress = progress or Progress()
    training = callbacks.AdversarialTraining(cases.Mirror(), value_range=(0, 1), progress=progress)
    return model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        initial_epoch=progress.epoch,
        shuffle=False,
        verbose=0,
        validation_data=validation_data,
        callbacks=[training, *others],
    ).history


def orders(make):
    """`make()` on its own, before and after Keras's exchange of weights in either form."""
    return {
        "alone": lambda: [make()],
        "after": lambda: [Swap(), make()],
        "before": lambda: [make(), Swap()],
        "after, by epoch": lambda: [Swap(swap_on_epoch=True), make()],
        "before, by epoch": lambda: [make(), Swap(swap_on_epoch=True)],
    }


def evaluating():
    return callbacks.RobustEvaluation((X, Y), ATTACK, value_range=(0, 1))


SLOW = ("alone", "after", "before, by epoch")


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(order, marks=[pytest.mark.slow] * (order in SLOW))
        for order in orders(evaluating)
    ],
)
def test_robust_evaluation_and_keras_name_one_accuracy(order):
    model, twin = compiled(), compiled()
    others = orders(evaluating)[order]()
    history = fit(model, others)
    assert history["val_clean_accuracy"] == pytest.approx(history["val_accuracy"])
    # And the training is, to the bit, that without the evaluation.
    alone = [each for each in others if isinstance(each, Swap)]
    plain = fit(twin, [type(each)(each.swap_on_epoch) for each in alone])
    assert {name: history[name] for name in plain} == plain
    cases.assert_equal_bits(cases.state(model), cases.state(twin))
    if "alone" not in order:
        # What `fit` leaves is what was validated last.
        [clean, attacked] = evaluation.evaluate(model, (X, Y), ATTACK, value_range=(0, 1))
        assert clean.accuracy == history["val_clean_accuracy"][-1]
        assert attacked.accuracy == history["val_pgd2_accuracy"][-1]


PLACES = [True, pytest.param(False, marks=pytest.mark.slow)]


class Validated(keras.callbacks.Callback):
    """Remembers the weights that Keras validates."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_test_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.seen.append(self.model.trainable_variables[0].numpy())


LOOKING = {
    "_write": lambda folder: callbacks.BatchNormStatistics(folder),
    "_figure": lambda folder: callbacks.AdversarialImages(folder, (X, Y), ATTACK, 2, 1, (0, 1)),
}


@pytest.mark.parametrize("first", PLACES, ids=["before", "after"])
@pytest.mark.parametrize("method", LOOKING)
def test_pictures_show_them(method, first, tmp_path, monkeypatch):
    looking, seen = LOOKING[method](tmp_path), []
    work = getattr(looking, method)

    def look():
        seen.append(looking.model.trainable_variables[0].numpy())
        return work()

    monkeypatch.setattr(looking, method, look)
    validated = Validated()
    fit(compiled("mbn"), [looking, Swap(), validated] if first else [Swap(), looking, validated])
    for ours, theirs in zip(seen, validated.seen, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(seen) >= len(validated.seen) == 3


@pytest.mark.parametrize("first", PLACES, ids=["before", "after"])
def test_checkpoints_hold_them_and_go_on_with_the_bits_of_training(first, tmp_path):
    def others(name):
        saving = callbacks.Checkpoint(tmp_path / name, "val_pgd2_accuracy", minutes=1e-6)
        return [evaluating(), *([saving, Swap()] if first else [Swap(), saving])]

    model = compiled()
    history = fit(model, others("whole"))
    for epoch in range(3):
        saved = keras.saving.load_model(tmp_path / "whole" / f"epoch-000{epoch + 1}.keras")
        accuracy = saved.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
        assert accuracy == pytest.approx(history["val_accuracy"][epoch])
    best = json.loads((tmp_path / "whole" / "best.json").read_text())
    saved = keras.saving.load_model(tmp_path / "whole" / "best.keras")
    [_, attacked] = evaluation.evaluate(saved, (X, Y), ATTACK, value_range=(0, 1))
    assert attacked.accuracy == best["val_pgd2_accuracy"] == max(history["val_pgd2_accuracy"])

    resumed = compiled()
    progress = checkpoints.restore(resumed, tmp_path / "whole" / "epoch-0001.keras")
    assert progress == Progress(1)
    fit(resumed, others("resumed"), progress=progress)
    cases.assert_equal_bits(cases.state(resumed), cases.state(model))


def test_a_checkpoint_says_why_it_cannot(tmp_path):
    message = r"Checkpoint needs SwapEMAWeights\(swap_on_epoch=False\) .* received True"
    for others in orders(lambda: callbacks.Checkpoint(tmp_path)).values():
        by_epoch = any(getattr(each, "swap_on_epoch", False) for each in others())
        if by_epoch:
            with pytest.raises(ValueError, match=message):
                fit(compiled(), others())


class OwnAverages(keras.callbacks.Callback):
    """Changes the weights for Keras's validation alone."""

    def on_test_begin(self, logs=None):
        self.weights = self.model.get_weights()
        self.model.set_weights([0.5 * weight for weight in self.weights])

    def on_test_end(self, logs=None):
        self.model.set_weights(self.weights)


def test_warns_of_weights_that_another_callback_shows_to_keras_alone():
    message = "RobustEvaluation sees other weights than Keras's validation of this epoch"
    with cases.warnings_for_users() as warned:
        fit(compiled(), [evaluating(), OwnAverages()], epochs=1)
    [text] = [str(warning.message) for warning in warned]
    assert re.search(message, text) and "\n" not in text
    fit(compiled(), [evaluating(), OwnAverages()], epochs=1, validation_data=None)
