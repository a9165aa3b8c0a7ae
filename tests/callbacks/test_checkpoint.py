import errno
import json
import os
import pathlib
import shutil

import keras
import pytest

from tests.training import cases
from tfadv.callbacks import AdversarialTraining, Checkpoint, checkpoint
from tfadv.checkpoint_files import Progress

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
    directory = tmp_path / "created" / "as needed"
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
    # An epoch that is trained again is written again, and the best stays what it was.
    fit(model, tmp_path, [0.8], first=5, keep=2)
    assert json.loads((tmp_path / "best.json").read_text())["val_pgd10_accuracy"] == 0.9


def test_epochs_without_the_value_do_not_compete(model, tmp_path):
    fit(model, tmp_path, [None, None])
    assert names(tmp_path) == ["epoch-0001.keras", "epoch-0002.keras"]
    fit(model, tmp_path, [None, 0.0, float("nan")], first=2)
    assert epoch_of(tmp_path / "best.keras") == 4


def test_leaves_other_files_alone(model, tmp_path):
    # Two look like checkpoints: one is incomplete, and one is newer than this training.
    others = ["epoch-0001.txt", "epoch-best.keras", "notes", "epoch-0000.keras", "epoch-0009.keras"]
    for name in others:
        (tmp_path / name).write_text("mine")
    fit(model, tmp_path, [0.1, 0.2, 0.3], keep=2)
    assert set(names(tmp_path)) == {
        *(*others, "best.json", "best.keras", "epoch-0002.keras", "epoch-0003.keras")
    }


def test_where_files_cannot_have_two_names(model, tmp_path, monkeypatch):
    def link(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr("os.link", link)
    fit(model, tmp_path, [0.1, 0.2], keep=1)
    assert names(tmp_path) == ["best.json", "best.keras", "epoch-0002.keras"]
    assert epoch_of(tmp_path / "best.keras") == 2


def files_after_updates(directory, checkpoint, progress=None):
    """Trains two epochs of four updates, and lists the directory after each of them."""
    seen = []
    cases.compiled(cases.network()).fit(
        X,
        Y,
        batch_size=1,
        epochs=2,
        verbose=0,
        callbacks=[
            AdversarialTraining(cases.Mirror(), value_range=(0, 1), progress=progress),
            checkpoint,
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: seen.append(names(directory))
            ),
        ],
    )
    return seen


class MinuteByMinute(Checkpoint):
    """By whose clock each update takes a minute."""

    def __init__(self, monkeypatch, *args, **options):
        super().__init__(*args, **options)
        self.now = 0.0
        monkeypatch.setattr(checkpoint.time, "monotonic", lambda: self.now)

    def on_train_batch_begin(self, batch, logs=None):
        self.now += 60.0
        super().on_train_batch_begin(batch, logs)


def test_within_epochs_by_the_clock(tmp_path, monkeypatch):
    seen = files_after_updates(tmp_path, MinuteByMinute(monkeypatch, tmp_path, minutes=2, keep=1))
    first, second = "epoch-0000-step-000002.keras", "epoch-0001-step-000002.keras"
    assert seen == [
        [],
        [first],
        [first],
        [first],  # the last update has its epoch's
        ["epoch-0001.keras"],
        [second, "epoch-0001.keras"],
        [second, "epoch-0001.keras"],
        [second, "epoch-0001.keras"],
    ]
    assert names(tmp_path) == ["epoch-0002.keras"]


def test_a_request_ends_with_its_epoch(tmp_path, monkeypatch):
    # It is asked while the updates before the resumed one are passed over, where none is agreed on.
    minutes = MinuteByMinute(monkeypatch, tmp_path, minutes=2)
    seen = files_after_updates(tmp_path, minutes, Progress(0, 3))
    assert seen[:5] == [[], [], [], [], ["epoch-0001.keras"]]


def test_before_the_last_update_of_an_epoch_that_ends_long(tmp_path):
    ends_long = Checkpoint(tmp_path, minutes=60, long_ends=lambda epoch: epoch == 0)
    before, after = "epoch-0000-step-000003.keras", "epoch-0001.keras"
    seen = files_after_updates(tmp_path, ends_long)
    assert seen == [[], [], [before], [before], *[[after]] * 4]


def test_a_full_disk_leaves_what_was_there(model, tmp_path, monkeypatch):
    fit(model, tmp_path, [0.1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save = keras.Model.save

    def full(self, path):
        save(self, path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keras.Model, "save", full)
    path = tmp_path / "epoch-0002.keras"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        fit(model, tmp_path, [0.2], first=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_directory_that_vanished_is_not_made_again(model, tmp_path):
    model.epochs = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: shutil.rmtree(tmp_path / "run")
    )
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*epoch-0001.keras'"):
        fit(model, tmp_path / "run", [0.1])
    assert not (tmp_path / "run").exists()


def test_killed_between_the_best_and_its_epoch(model, tmp_path, monkeypatch):
    """Whatever was replaced last: the epoch trained again finds the same best."""
    fit(model, tmp_path, [0.1])
    for replaced in ("best.keras", "best.json", "epoch-0002.keras"):
        replace = pathlib.Path.replace

        def kill(path, target, replaced=replaced, replace=replace):
            if target.name == replaced:
                raise KeyboardInterrupt
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "replace", kill)
            with pytest.raises(KeyboardInterrupt):
                fit(model, tmp_path, [0.2], first=1)
        assert not (tmp_path / "epoch-0002.keras").exists()
    fit(model, tmp_path, [0.2], first=1)
    assert epoch_of(tmp_path / "best.keras") == 2
    assert json.loads((tmp_path / "best.json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"minutes": "1"}, "minutes must be a number above 0"),
        ({"minutes": float("nan")}, "minutes must be a number above 0"),
        ({"keep": 0}, "keep must be an integer of at least 1; received 0"),
        ({"keep": 2.5}, "keep must be an integer of at least 1; received 2.5"),
    ],
)
def test_refuses_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Checkpoint(tmp_path, **options)
