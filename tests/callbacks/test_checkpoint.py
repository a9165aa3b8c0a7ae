import json

import keras
import pytest

from tests.training import cases
from tfadv import distributed
from tfadv.callbacks import Checkpoint

X, Y = cases.images(4)


class Scores(keras.callbacks.Callback):
    """Puts a value into the logs of every epoch that has one."""

    def __init__(self, values, name="val_pgd10_accuracy"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        if self.values.get(epoch) is not None:
            logs[self.name] = self.values[epoch]


@pytest.fixture
def model():
    model = cases.compiled(cases.network())
    # Each epoch leaves its number in the weights.
    model.epochs = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.get_layer("logits").bias.assign([epoch + 1.0] * 4)
    )
    return model


def fit(model, directory, values, first=0, **options):
    model.fit(
        X,
        Y,
        initial_epoch=first,
        epochs=first + len(values),
        verbose=0,
        callbacks=[
            model.epochs,
            Scores({first + number: value for number, value in enumerate(values)}),
            Checkpoint(directory, **options),
        ],
    )


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def epoch_of(path):
    return float(keras.saving.load_model(path).get_layer("logits").bias[0])


def test_keeps_the_last_and_the_best(model, tmp_path):
    directory = tmp_path / "made" / "as needed"
    fit(model, directory, [0.1, 0.7, 0.2, 0.7, 0.3], keep=2)
    assert names(directory) == ["best.json", "best.keras", "epoch-0004.keras", "epoch-0005.keras"]
    # The first of two that are equal.
    assert json.loads((directory / "best.json").read_text()) == {
        "epoch": 2,
        "val_pgd10_accuracy": 0.7,
    }
    assert epoch_of(directory / "best.keras") == 2
    assert epoch_of(directory / "epoch-0004.keras") == 4


def test_a_continued_run_competes_with_what_came_before(model, tmp_path):
    fit(model, tmp_path, [0.2, 0.6, 0.1], keep=2)
    fit(model, tmp_path, [0.5, 0.3], first=3, keep=2)
    assert names(tmp_path) == ["best.json", "best.keras", "epoch-0004.keras", "epoch-0005.keras"]
    assert epoch_of(tmp_path / "best.keras") == 2
    fit(model, tmp_path, [0.9], first=5, keep=2)
    assert names(tmp_path) == ["best.json", "best.keras", "epoch-0005.keras", "epoch-0006.keras"]
    assert epoch_of(tmp_path / "best.keras") == 6
    # An epoch trained again is written anew, and the best keeps what it was.
    fit(model, tmp_path, [0.8], first=5, keep=2)
    assert json.loads((tmp_path / "best.json").read_text())["val_pgd10_accuracy"] == 0.9


def test_epochs_without_the_value_do_not_compete(model, tmp_path):
    fit(model, tmp_path, [None, None])
    assert names(tmp_path) == ["epoch-0001.keras", "epoch-0002.keras"]
    fit(model, tmp_path, [None, 0.0, float("nan")], first=2)
    assert epoch_of(tmp_path / "best.keras") == 4


def test_watches_another_value(model, tmp_path):
    model.fit(
        X,
        Y,
        epochs=3,
        verbose=0,
        callbacks=[
            model.epochs,
            Scores({0: 1.0, 1: 3.0, 2: 2.0}, "val_clean_accuracy"),
            Checkpoint(tmp_path, monitor="val_clean_accuracy", keep=1),
        ],
    )
    assert names(tmp_path) == ["best.json", "best.keras", "epoch-0003.keras"]
    assert epoch_of(tmp_path / "best.keras") == 2


def test_leaves_other_files_alone(model, tmp_path):
    others = ["epoch-0001.txt", "epoch-best.keras", "notes"]
    for name in others:
        (tmp_path / name).write_text("mine")
    fit(model, tmp_path, [0.1, 0.2], keep=1)
    assert set(names(tmp_path)) == {*others, "best.json", "best.keras", "epoch-0002.keras"}


def test_where_files_cannot_have_two_names(model, tmp_path, monkeypatch):
    def link(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr("os.link", link)
    fit(model, tmp_path, [0.1, 0.2], keep=1)
    assert names(tmp_path) == ["best.json", "best.keras", "epoch-0002.keras"]
    assert epoch_of(tmp_path / "best.keras") == 2


def test_other_workers_write_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    fit(model, tmp_path / "run", [0.1])
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, -1, 2.5])
def test_refuses_to_keep_nothing(tmp_path, keep):
    with pytest.raises(ValueError, match="keep must be an integer of at least 1; received"):
        Checkpoint(tmp_path, keep=keep)
