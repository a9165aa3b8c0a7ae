import errno
import json
import os

import keras
import pytest

from tests.training import cases
from tfadv.callbacks import AdversarialTraining, RunLog, run_log

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
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[log])
    assert [line["epoch"] for line in lines(tmp_path / "log")] == [1, 2, 1, 2]
    assert capsys.readouterr().out.count("left") == 2


@pytest.mark.parametrize(
    "first, texts",
    [
        (100, ["6 min 40 s", "3 min 0 s", "1 min 33 s", "40 s"]),
        (187_260, ["208 h 4 min", "78 h 2 min", "34 h 41 min", "13 h 0 min"]),
    ],
)
def test_says_how_long_the_rest_takes(tmp_path, monkeypatch, capsys, first, texts):
    # A first epoch of some seconds, and four of 20 s, between readings of the clock.
    ends = [first + 20 * epoch for epoch in range(5)]
    now = iter([0, *[time for end in ends for time in (end, end)]])
    monkeypatch.setattr(run_log.time, "monotonic", lambda: next(now))
    fit(tmp_path / "log", 7, initial_epoch=2, print_time_left=True)
    # By the mean over the epochs of this process.
    assert capsys.readouterr().out.splitlines() == [f"about {text} left" for text in texts]
    assert [line["seconds"] for line in lines(tmp_path / "log")] == [first, 20, 20, 20, 20]


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
