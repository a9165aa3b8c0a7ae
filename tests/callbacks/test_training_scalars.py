"""Scalars against the number of updates, read back from real event files."""

import keras
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tests.training import cases
from tfadv.callbacks import AdversarialTraining, TrainingScalars

X, Y = cases.images(8)


class Evaluated(keras.callbacks.Callback):
    """What an evaluation adds to the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs |= {
            "val_clean_accuracy": 0.5,
            "val_pgd10_accuracy": 0.25,
            "val_pgd10_accuracy_clean_branch": 0.125,
        }


def fit(model, directory, epochs, initial_epoch=0):
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    history = model.fit(
        X, Y, batch_size=4, epochs=epochs, initial_epoch=initial_epoch, verbose=0, shuffle=False,
        callbacks=[training, Evaluated(), TrainingScalars(directory)],
    )  # fmt: skip
    return history.history


def read(directory):
    """Tag -> [(step, value)]."""
    events = EventAccumulator(str(directory), {"tensors": 0})
    events.Reload()
    return {
        tag: [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_logs_by_domain_at_the_number_of_updates(tmp_path):
    model = cases.compiled(cases.normalized("mbn"), metrics=["accuracy"])
    logs = fit(model, tmp_path, epochs=2)
    whole, adv, clean = (read(tmp_path / run) for run in ("", "adv", "clean"))

    def expected(name):
        return [(2 * (i + 1), pytest.approx(value)) for i, value in enumerate(logs[name])]

    assert whole["loss"] == expected("loss") and whole["accuracy"] == expected("accuracy")
    assert adv["loss"] == expected("adv_loss") and clean["loss"] == expected("clean_loss")
    assert adv["accuracy"] == expected("adv_accuracy")
    assert whole["attack_success"] == expected("attack_success")
    assert whole["learning_rate"] == [(2, pytest.approx(0.1)), (4, pytest.approx(0.1))]
    assert whole["validation/pgd10_accuracy"] == [(2, 0.25), (4, 0.25)]
    assert clean["validation/pgd10_accuracy"] == [(2, 0.125), (4, 0.125)]
    assert set(adv) == {"loss", "accuracy"}


def test_a_resumed_training_strikes_out_what_came_after_its_checkpoint(tmp_path):
    model = cases.compiled(cases.normalized("bn"))
    fit(model, tmp_path, epochs=2)
    model.save(tmp_path / "m.keras")
    fit(model, tmp_path, epochs=4, initial_epoch=2)  # killed here: its epochs are done again
    again = keras.saving.load_model(tmp_path / "m.keras")
    logs = fit(again, tmp_path, epochs=3, initial_epoch=2)
    found = read(tmp_path)["loss"]
    assert [step for step, _ in found] == [2, 4, 6]
    assert found[-1][1] == pytest.approx(logs["loss"][0])
