"""Stops a training with a signal; tests/test_programs.py does it with several workers."""

import os
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv import checkpoint_files, distributed, signals
from tfadv.callbacks import AdversarialTraining, Checkpoint, Preemption
from tfadv.training import checkpoints

X, Y = cases.images(12)  # three updates an epoch


class Signal(keras.callbacks.Callback):
    """Sends this process a signal at a moment."""

    def __init__(self, moment, number=signal.SIGTERM):
        super().__init__()
        self.moment, self.number = moment, number

    def on_train_batch_begin(self, batch, logs=None):
        if self.moment == (self.epoch, batch):
            os.kill(os.getpid(), self.number)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.moment == (epoch, "end"):
            os.kill(os.getpid(), self.number)


def fit(directory, sender, signals=(signal.SIGTERM,), **options):
    checkpoint = Checkpoint(directory, **options)
    cases.compiled(cases.network()).fit(
        X,
        Y,
        batch_size=4,
        epochs=2,
        verbose=0,
        shuffle=False,
        callbacks=[
            AdversarialTraining(cases.Mirror(), value_range=(0, 1)),
            sender,
            checkpoint,
            Preemption(checkpoint, signals),
        ],
    )


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """The handlers before a test, which are restored after it."""
    monkeypatch.delenv("TFADV_STATUS_FILE", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "moment, name",
    [
        ((0, 1), "epoch-0000-step-000002"),
        ((1, 0), "epoch-0001-step-000001"),
        ((0, 2), "epoch-0001"),  # the last update: after the epoch's own checkpoint
        ((1, "end"), "epoch-0002"),
    ],
)
def test_stops_after_a_checkpoint(tmp_path, monkeypatch, capsys, moment, name):
    monkeypatch.setenv("TFADV_STATUS_FILE", str(tmp_path / "status"))
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path / "c", Signal(moment))
    assert stopped.value.code == 75 and (tmp_path / "status").read_text() == "75"
    path = tmp_path / "c" / f"{name}.keras"
    assert path.is_file()
    assert capsys.readouterr().out == f"\nstopped by SIGTERM, to be resumed from {path}\n"
    # A second signal is not ours: it ends the process, whatever Python is doing.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("moment", [(1, 2), (1, "end")])
def test_a_long_end_of_an_epoch_is_left_at_once(tmp_path, capsys, moment):
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, Signal(moment), minutes=60, long_ends=lambda epoch: epoch == 1)
    assert stopped.value.code == 75
    path = tmp_path / "epoch-0001-step-000002.keras"  # before the last of three updates
    assert capsys.readouterr().out == f"\nstopped by SIGTERM, to be resumed from {path}\n"
    assert sorted(each.name for each in tmp_path.glob("*.keras")) == [path.name, "epoch-0001.keras"]


def test_any_signal_counts_and_then_none_is_held(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, Signal((0, 0), signal.SIGINT), (signal.SIGTERM, signal.SIGINT))
    assert "stopped by SIGINT" in capsys.readouterr().out
    for number in (signal.SIGTERM, signal.SIGINT):
        assert signal.getsignal(number) == signal.SIG_DFL


def test_after_training_signals_are_what_they_were(tmp_path, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    fit(tmp_path, Signal((0, 0), signal.SIGINT), (signal.SIGTERM, signal.SIGINT))
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert (tmp_path / "epoch-0002.keras").is_file()


def test_no_worker_begins_before_all_can_be_asked(tmp_path, monkeypatch, handlers):
    # A signal would end a worker that has no handler yet, and it would take the others along.
    seen = []

    def total(values):
        seen.append(signal.getsignal(signal.SIGTERM))
        return np.asarray(values)

    monkeypatch.setattr(distributed, "total", total)
    first = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append("begins"))
    fit(tmp_path, first)
    assert seen[0] not in (handlers[signal.SIGTERM], "begins") and seen[1] == "begins"


def test_needs_adversarial_training(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(ValueError, match="AdversarialTraining must come before"):
        cases.compiled(cases.network()).fit(
            X, Y, verbose=0, callbacks=[checkpoint, Preemption(checkpoint)]
        )


class Parts(cases.Mirror):
    """Counts the parts that are attacked, and sends this process a signal within one of them."""

    def __init__(self, at=None):
        super().__init__()
        self.count, self.at = 0, at

    def __call__(self, logits_fn, images, labels, **options):
        def work(images):
            self.count += 1
            if self.count == self.at:
                # Not to the main thread, which is in TensorFlow: its handler comes afterwards.
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.5)
            return images

        given = tf.numpy_function(work, [images], tf.float32)
        given.set_shape(images.shape)
        return super().__call__(logits_fn, given, labels, **options)


def accumulate(directory, attack, progress=None, steps=3, model=None):
    """An epoch of updates of four parts each."""
    keras.utils.set_random_seed(3)
    if model is None:
        model = cases.compiled(
            cases.network(keras.layers.Dropout(0.5)), keras.optimizers.SGD(0.1, momentum=0.9)
        )
    if progress:
        progress = checkpoints.restore(model, progress)
    checkpoint = Checkpoint(directory)
    first = progress.step if progress else 0
    model.fit(
        tf.data.Dataset.from_tensor_slices((X, Y))
        .batch(4, drop_remainder=True)
        .skip(first)
        .repeat(),
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=[
            AdversarialTraining(
                attack, accumulation_steps=4, value_range=(0, 1), progress=progress or None
            ),
            checkpoint,
            Preemption(checkpoint),
        ],
    )
    return model


@pytest.mark.parametrize("part, updates", [(2, 0), (6, 1), (11, 2)])
def test_an_update_of_many_parts_is_left_after_the_current_one(tmp_path, part, updates):
    attack = Parts(at=part)
    with pytest.raises(SystemExit) as stopped:
        accumulate(tmp_path / "stopped", attack)
    assert stopped.value.code == 75
    assert attack.count == part
    path = checkpoint_files.newest(tmp_path / "stopped", pytest.fail)
    assert path.name == checkpoint_files.name(0, updates)
    # The update is as if it had not begun: after it a resumed training has the same bits.
    whole = accumulate(tmp_path / "whole", Parts())
    attack = Parts()
    resumed = accumulate(tmp_path / "resumed", attack, progress=path)
    assert attack.count == (3 - updates) * 4
    cases.assert_equal_bits(cases.state(resumed), cases.state(whole))


def test_a_signal_in_the_last_part_is_answered_after_the_update(tmp_path):
    attack = Parts(at=8)
    with pytest.raises(SystemExit):
        accumulate(tmp_path, attack)
    assert attack.count == 8
    assert checkpoint_files.newest(tmp_path, pytest.fail).name == "epoch-0000-step-000002.keras"


def test_a_signal_while_the_step_is_traced_is_no_part_of_it(tmp_path):
    class Tracing(cases.Mirror):
        def __call__(self, logits_fn, images, labels, **options):
            signal.raise_signal(signal.SIGTERM)
            return super().__call__(logits_fn, images, labels, **options)

    with pytest.raises(SystemExit):
        accumulate(tmp_path, Tracing())
    assert checkpoint_files.newest(tmp_path, pytest.fail).name == "epoch-0000.keras"


def fail(*_, **__):
    raise KeyError


def test_a_fit_that_failed_gives_the_signals_back(tmp_path, handlers, monkeypatch):
    monkeypatch.setattr(signals, "_INTERVAL", 0.02)
    with pytest.raises(KeyError):
        fit(tmp_path, keras.callbacks.LambdaCallback(on_train_batch_end=fail))
    deadline = time.monotonic() + 20
    while signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_right_after_a_fit_that_failed_is_not_ours(tmp_path):
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    with pytest.raises(KeyError):
        fit(tmp_path, keras.callbacks.LambdaCallback(on_train_batch_end=fail))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert seen == ["mine", "mine"]
