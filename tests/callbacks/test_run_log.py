import errno
import io
import json
import os

import keras
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv.callbacks import AdversarialTraining, EpochTable, RunLog, run_log

X, Y = cases.images(6)


def fit(path, epochs=3, initial_epoch=0, optimizer=None, print_time_left=False, callbacks=()):
    model = cases.compiled(cases.network(), optimizer)
    if initial_epoch:
        model.optimizer.iterations.assign(2 * initial_epoch)
    return model.fit(
        X,
        Y,
        batch_size=3,
        epochs=epochs,
        initial_epoch=initial_epoch,
        verbose=0,
        callbacks=[*callbacks, RunLog(path, print_time_left)],
    ).history


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_writes_a_line_for_every_epoch(tmp_path):
    path = tmp_path / "run" / "log.jsonl"
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    history = fit(path, optimizer=keras.optimizers.SGD(rate), callbacks=[training])
    entries = lines(path)
    # Two updates an epoch.
    assert [(line["epoch"], line["step"]) for line in entries] == [(1, 2), (2, 4), (3, 6)]
    assert all(line["seconds"] >= 0 for line in entries)
    assert all(line["learning_rate"] == 0.25 for line in entries)
    assert set(entries[0]) == {"epoch", "step", "seconds", "learning_rate", *history}
    for name, values in history.items():
        assert [line[name] for line in entries] == pytest.approx(values)


def test_adds_to_the_file_of_a_continued_run(tmp_path):
    path = tmp_path / "log.jsonl"
    fit(path, epochs=2)
    fit(path, epochs=3, initial_epoch=2)
    assert [line["epoch"] for line in lines(path)] == [1, 2, 3]


def test_strikes_out_what_a_killed_run_wrote_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    fit(path, epochs=3)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"epoch": 4, "st')  # and the machine stopped
    fit(path, epochs=3, initial_epoch=1)
    assert [(line["epoch"], line["step"]) for line in lines(path)] == [(1, 2), (2, 4), (3, 6)]
    assert path.read_text(encoding="utf-8").splitlines()[0] == first
    assert list(tmp_path.iterdir()) == [path]


def test_logs_under_optimizers_that_wrap_or_accumulate(tmp_path):
    path = tmp_path / "log.jsonl"
    for optimizer, updates in (
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125)), 2),
        (keras.optimizers.SGD(0.125, gradient_accumulation_steps=2), 1),
    ):
        fit(path, 1, optimizer=optimizer)
        [line] = lines(path)
        assert (line["step"], line["learning_rate"]) == (updates, 0.125)


def test_serves_one_fit_after_another(tmp_path, capsys):
    model, log = cases.compiled(cases.network()), RunLog(tmp_path / "log")
    for _ in range(2):
        model.fit(X, Y, batch_size=3, epochs=2, verbose=0, callbacks=[log])
    assert [line["epoch"] for line in lines(tmp_path / "log")] == [1, 2, 1, 2]
    assert capsys.readouterr().out.count("left") == 2


class Clock(keras.callbacks.Callback):
    """Stands before the callbacks under test, and lets time pass in each update and evaluation."""

    def __init__(self, monkeypatch, updates, evaluation=0):
        super().__init__()
        self.now, self.updates, self.evaluation = 0.0, iter(updates), evaluation
        monkeypatch.setattr(run_log.time, "monotonic", lambda: self.now)

    def on_train_batch_end(self, batch, logs=None):
        self.now += next(self.updates)

    def on_epoch_end(self, epoch, logs=None):
        self.now += self.evaluation


def test_says_how_long_the_rest_takes_without_the_first_update(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch, [1000, *[10] * 9])
    fit(tmp_path / "log", 7, initial_epoch=2, print_time_left=True, callbacks=[clock])
    # Two updates of 10 s in each epoch that is left.
    assert capsys.readouterr().out.splitlines() == [
        f"about {text} left" for text in ("1 min 20 s", "1 min 0 s", "40 s", "20 s")
    ]
    assert [line["seconds"] for line in lines(tmp_path / "log")] == [1010, 20, 20, 20, 20]


def test_an_epoch_of_one_update_says_nothing_before_the_second(tmp_path, monkeypatch, capsys):
    clock, log = Clock(monkeypatch, [1000, 30, 30, 30]), RunLog(tmp_path / "log")
    model = cases.compiled(cases.network())
    model.fit(X, Y, batch_size=6, epochs=4, verbose=0, callbacks=[clock, log])
    assert capsys.readouterr().out == "about 1 min 0 s left\nabout 30 s left\n"


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_epoch_of_unknown_length_does_not_count_if_it_is_the_first(
    monkeypatch, capsys, tmp_path
):
    clock, log = Clock(monkeypatch, [500, *[10] * 7]), RunLog(tmp_path / "log")
    model = cases.compiled(cases.network())
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).filter(lambda x, y: True)
    stream = io.StringIO()
    callbacks = [clock, EpochTable(stream=stream), log]
    model.fit(data, epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
    assert capsys.readouterr().out == "about 40 s left\nabout 20 s left\n"
    lefts = [line.partition("|")[0].split()[3:] for line in stream.getvalue().splitlines()[1:]]
    assert lefts == [[], ["40", "s"], ["20", "s"], []]


class Evaluations(keras.callbacks.Callback):
    """Adds logs at the end of the second epoch."""

    def __init__(self, **logs):
        super().__init__()
        self.logs = logs

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            logs.update(self.logs)


class Logs(keras.callbacks.Callback):
    """Replaces the logs of every epoch by known numbers."""

    def on_epoch_end(self, epoch, logs=None):
        logs.clear()
        logs.update(
            {"accuracy": 0.5, "adv_accuracy": 0.25, "adv_loss": 2.0, "attack_success": 1 / 3},
            clean_accuracy=1.0, clean_loss=1.0, communication_share=0.3, loss=2.2,
            top5_accuracy=0.987, top2_accuracy=0.75, auc=0.123456,
        )  # fmt: skip


EVALUATED = {"val_clean_accuracy": 0.7556, "val_pgd10_accuracy": 0.2389, "val_pgd10_success": 0.6}


def table(monkeypatch, columns=(), stream=None, clock=None):
    """What an `EpochTable` prints in three epochs of two updates."""
    stream = stream or io.StringIO()
    clock = clock or Clock(monkeypatch, [300, *[10] * 5], evaluation=5)
    model = cases.compiled(cases.network())
    callbacks = [clock, Logs(), Evaluations(**EVALUATED), EpochTable(columns, stream)]
    model.fit(X, Y, batch_size=3, epochs=3, verbose=0, callbacks=callbacks)
    return stream.getvalue()


def test_a_table_with_a_row_for_every_epoch(monkeypatch):
    # The network has five classes, so that the five best are all of them.
    columns = ["loss", "top2_accuracy", "auc", "adv_accuracy", "attack_success", "clean_accuracy"]
    columns += ["val_clean_accuracy", "val_pgd10_accuracy"]
    assert table(monkeypatch, columns).splitlines() == [
        "epoch    time    left |   loss    top2     auc | adv accuracy  success | clean accuracy | "
        "val clean  val pgd10",
        "  1/3   5 min    60 s |  2.200   75.0%  0.1235 |        25.0%    33.3% |         100.0%",
        "  2/3    25 s    27 s |  2.200   75.0%  0.1235 |        25.0%    33.3% |         100.0% | "
        "    75.6%      23.9%",
        "  3/3    25 s         |  2.200   75.0%  0.1235 |        25.0%    33.3% |         100.0%",
    ]


def test_a_new_column_has_a_new_header(monkeypatch):
    lines = table(monkeypatch).splitlines()
    assert [line[:5] for line in lines] == ["epoch", "  1/3", "epoch", "  2/3", "  3/3"]
    assert "val" not in lines[0] and lines[2].endswith("| val clean  val pgd10")


def test_a_terminal_shows_the_updates_between_the_rows(monkeypatch):
    monkeypatch.setattr(run_log.launcher, "is_terminal", lambda stream: True)
    monkeypatch.setattr(run_log.launcher, "columns", lambda: 30)
    text = table(monkeypatch)
    *shown, rest = text.partition("\n")[0].split("\r")[1:]
    assert [line.rstrip() for line in shown] == [
        "1/3  update 1 of 2",
        "1/3  update 2 of 2, about 40",  # as wide as the terminal
    ]
    assert rest.startswith("epoch  ")
    assert text.count("\n") == 5 and text.endswith("\n")


def test_a_file_hears_of_epochs_and_evaluations_that_take_long(monkeypatch):
    stream = io.StringIO()
    text = table(monkeypatch, ["loss"], stream, Clock(monkeypatch, [400, 400, 400, 10, 10, 10]))
    assert "1/3  update 2 of 2, about 26 min 40 s left\n" in text and "\r" not in text
    progress = EpochTable(stream=(stream := io.StringIO()))
    progress._epoch, progress.params = 0, {"epochs": 3}
    now = 0.0
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now)
    for now in (300.0, 700.0, 900.0, 1400.0):
        progress.evaluating(int(now), 2000)
    assert stream.getvalue() == (
        "1/3  evaluation: batch 700 of 2000\n1/3  evaluation: batch 1400 of 2000\n"
    )


def test_the_header_comes_again_in_a_long_table(monkeypatch):
    model, stream = cases.compiled(cases.network()), io.StringIO()
    model.fit(X, Y, batch_size=6, epochs=42, verbose=0, callbacks=[EpochTable(stream=stream)])
    rows = stream.getvalue().splitlines()
    assert [number for number, row in enumerate(rows) if row.startswith("epoch")] == [0, 41]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    fit(path, epochs=1)
    before, write = path.read_bytes(), os.write

    def full(descriptor, data):
        if len(data) > 10:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_log.os, "write", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        fit(path, epochs=2, initial_epoch=1)
    assert path.read_bytes() == before
