"""A training that is stopped anywhere and resumed equals one that never stopped: bits and records.

It has all that keeps a state in a program's run: dropout, mixture normalization with the switch to
running statistics, a schedule, metrics, logs and TensorBoard.
"""

import json

import keras
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

import tfadv
from tests.training import cases
from tfadv import callbacks, checkpoint_files
from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints
from tfadv.training.schedules import WarmupSteps

# After eight updates the statistics have indeed not reached those of the batches.
pytestmark = pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")
EPOCHS, STEPS = 3, 4
X, Y = cases.images(4 * EPOCHS * STEPS)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends `fit` after an update, or at the end of an epoch at its place among the callbacks."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.epoch, self.batch = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if self.batch is None and epoch == self.epoch:
            raise Killed


def network():
    keras.utils.set_random_seed(5)
    model = cases.network(
        keras.layers.Dense(6, name="dense"),
        tfadv.layers.normalization("mbn", 6, name="norm"),
        keras.layers.Dropout(0.4),
    )
    rate = WarmupSteps(0.1, 512, STEPS, warmup_epochs=1, decay_epochs=(2,))
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    return cases.compiled(model, optimizer, metrics=["accuracy"])


def train(directory, kill=None, before=""):
    """Trains, or goes on with a training; `kill` stands before the callback of a class's name."""
    model, progress = network(), Progress()
    path = checkpoint_files.newest(directory / "checkpoints", pytest.fail)
    if path is not None:
        keras.utils.set_random_seed(99)  # as a new process has other global random states
        progress = checkpoints.restore(model, path)
    stream = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4, drop_remainder=True)
    fit_callbacks = [
        callbacks.AdversarialTraining(
            tfadv.attacks.PGD(epsilon=30, num_steps=2, start_from_clean=0.5),
            value_range=(0, 1),
            seed=9,
            progress=progress,
        ),
        callbacks.RunningStatistics(last_epochs=1),
        callbacks.TrainingScalars(directory / "tensorboard", update_freq=2),
        callbacks.RunLog(directory / "log.jsonl", print_time_left=False),
        callbacks.Checkpoint(directory / "checkpoints", "adv_accuracy", minutes=1e-6),
    ]
    if kill is not None:
        names = [type(each).__name__ for each in fit_callbacks]
        fit_callbacks.insert(names.index(before) if before in names else len(names), kill)
    model.fit(
        stream.skip(STEPS * progress.epoch + progress.step).repeat(),
        epochs=EPOCHS,
        initial_epoch=progress.epoch,
        steps_per_epoch=STEPS,
        shuffle=False,
        verbose=0,
        callbacks=fit_callbacks,
    )
    return model, progress


def scalars(directory):
    """Tag -> steps and values, as TensorBoard shows them: what is there twice is here twice."""
    events = EventAccumulator(str(directory), tensor_size_guidance={"scalars": 0}).Reload()
    return {
        tag: [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def records(directory):
    """All that a training leaves besides its weights, without the times."""
    log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    shown = {
        run: scalars(directory / "tensorboard" / run)
        for run in ("train", "train/adv", "train/clean")
    }
    checkpoint = directory / "checkpoints"
    return {
        "log": [{k: v for k, v in line.items() if k != "seconds"} for line in log],
        "tensorboard": shown,
        "files": sorted(path.name for path in checkpoint.iterdir()),
        "best": json.loads((checkpoint / "best.json").read_text()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    model, _ = train(directory)
    left = records(directory)
    assert [line["step"] for line in left["log"]] == [4, 8, 12]
    steps = {
        tag: [step for step, _ in tags] for tag, tags in left["tensorboard"]["train/adv"].items()
    }
    assert steps["loss"] == [4, 8, 12]
    assert steps["within_epochs/loss"] == [2, 4, 6, 8, 10, 12]
    assert left["files"] == ["best.json", "best.keras"] + [
        f"epoch-000{epoch}.keras" for epoch in (1, 2, 3)
    ]
    return cases.state(model), left


@pytest.mark.parametrize(
    "kills, goes_on",
    [
        # One update after the last checkpoint; right after one; and at the end of an epoch that is
        # in TensorBoard and in the log but has no checkpoint.
        ([(Kill(0, 1), "Checkpoint"), (Kill(0, 1), ""), (Kill(1), "Checkpoint")], (1, 3)),
        # After an epoch's last update; and with running statistics.
        pytest.param([(Kill(0, 3), ""), (Kill(2, 0), "")], (2, 1), marks=pytest.mark.slow),
        # With only the last update left: its checkpoint is that of the epoch, after the records.
        ([(Kill(0, 2), ""), (Kill(0), "Checkpoint")], (0, 3)),
        # When nothing is left to do.
        ([(Kill(2), "")], (3, 0)),
    ],
    ids=["early", "late", "last", "end"],
)
def test_ends_as_if_never_stopped(undisturbed, tmp_path, kills, goes_on):
    for kill, before in kills:
        with pytest.raises(Killed):
            train(tmp_path, kill, before)
    model, progress = train(tmp_path)
    assert (progress.epoch, progress.step) == goes_on
    bits, expected = undisturbed
    cases.assert_equal_bits(cases.state(model), bits)
    assert records(tmp_path) == expected


def test_progress_belongs_to_one_epoch():
    model = network()
    training = callbacks.AdversarialTraining(
        cases.Mirror(), value_range=(0, 1), progress=Progress(epoch=1, step=3)
    )
    fit = {"batch_size": 12, "verbose": 0, "shuffle": False, "callbacks": [training]}
    with pytest.raises(ValueError, match="initial_epoch must be 1, that of progress; received 0"):
        model.fit(X, Y, **fit)
    model.fit(X, Y, initial_epoch=1, epochs=3, **fit)
    assert int(model.optimizer.iterations) == 1 + 4
    model.fit(X, Y, **fit)  # once it is over, a training like any other
    assert int(model.optimizer.iterations) == 1 + 4 + 4
