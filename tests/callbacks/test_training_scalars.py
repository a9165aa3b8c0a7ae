"""Scalars against the number of updates, read back from real event files."""

import keras
import pytest

from tests.training import cases
from tfadv.callbacks import AdversarialTraining, TrainingScalars
from tfadv.event_files import read_scalars


def values(directory, tag):
    """Step -> value."""
    return {step: tags[tag] for step, tags in read_scalars(directory).items() if tag in tags}


def test_logs_of_fit_by_domain_at_the_number_of_updates(tmp_path):
    x, y = cases.images(8)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.25])
    model = cases.compiled(
        cases.normalized("mbn"), keras.optimizers.SGD(rate), metrics=["accuracy"]
    )
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    callbacks = [training, TrainingScalars(tmp_path)]
    logs = model.fit(
        x, y, batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=callbacks
    ).history
    names = ("loss", "accuracy", "attack_success")
    shown = {("train", name): logs[name] for name in names}
    shown |= {
        (f"train/{d}", name): logs[f"{d}_{name}"] for d in ("adv", "clean") for name in names[:2]
    }
    shown["train", "learning_rate"] = [0.5, 0.25]
    for (run, tag), (first, second) in shown.items():
        assert values(tmp_path / run, tag) == pytest.approx({2: first, 4: second})
    # Nothing is written twice.
    assert set(read_scalars(tmp_path / "train/adv")[2]) == {"loss", "accuracy"}
    assert set(read_scalars(tmp_path / "train")[4]) == {*names, "learning_rate"}


def train(directory, **logs):
    """Calls a `TrainingScalars` as `fit` does in an epoch of two updates."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = TrainingScalars(directory)
    callback.set_model(model)
    callback.on_train_begin()
    model.optimizer.iterations.assign(2)
    callback.on_epoch_end(0, {"loss": 1.0, **logs})
    callback.on_train_end()


def test_the_share_of_communication_stands_beside_the_loss(tmp_path):
    train(tmp_path, communication_share=0.25)
    assert read_scalars(tmp_path / "train")[2]["communication_share"] == 0.25


def test_evaluations_by_number_of_steps_and_branch(tmp_path):
    evaluated = {
        "val_clean_accuracy": 0.5,
        "val_pgd10_accuracy": 0.25,
        "val_pgd10_success": 0.75,
        "val_pgd10_accuracy_clean_branch": 0.125,
        "val_signstep_accuracy_clean_branch": 0.25,
        "val_signstep_success_clean_branch": 0.5,
        "val_top5_accuracy": 0.75,  # a metric
        "val_loss": 3.0,
    }
    train(tmp_path, **evaluated)
    assert read_scalars(tmp_path / "validation") == {
        2: {
            "accuracy/clean": 0.5,
            "accuracy/pgd10": 0.25,
            "attack_success/pgd10": 0.75,
            "top5_accuracy": 0.75,
            "loss": 3.0,
        }
    }
    assert read_scalars(tmp_path / "validation/clean_branch") == {
        2: {
            "accuracy/pgd10": 0.125,
            "accuracy/signstep": 0.25,
            "attack_success/signstep": 0.5,
        }
    }


def test_points_within_long_epochs_are_means_of_the_epoch_so_far(tmp_path):
    x, y = cases.images(14)
    model = cases.compiled(cases.normalized("bn"), metrics=["accuracy"])
    seen = []

    class Logs(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["adv_loss"])

    training = AdversarialTraining(cases.Mirror(), clean_ratio=0, value_range=(0, 1))
    logs = model.fit(
        x, y, batch_size=2, epochs=2, verbose=0, shuffle=False,
        callbacks=[training, TrainingScalars(tmp_path, update_freq=3), Logs()],
    ).history  # fmt: skip
    assert values(tmp_path / "train/adv", "within_epochs/loss") == pytest.approx(
        {step: seen[step - 1] for step in (3, 6, 10, 13)}
    )
    first, second = logs["adv_loss"]
    assert values(tmp_path / "train/adv", "loss") == pytest.approx({7: first, 14: second})
    assert len(values(tmp_path / "train", "within_epochs/learning_rate")) == 4


def test_keras_waits_for_updates_only_where_they_are_written(tmp_path):
    assert TrainingScalars(tmp_path).async_safe
    assert not TrainingScalars(tmp_path, update_freq=100).async_safe
    with pytest.raises(ValueError, match="\"epoch\", must be an integer of at least 1; .* 'batch'"):
        TrainingScalars(tmp_path, update_freq="batch")
