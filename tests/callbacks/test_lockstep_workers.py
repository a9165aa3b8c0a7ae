"""Two real workers in step, in one launch, which takes most of the time."""

import os
import signal
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import workers
from tests.training import cases
from tfadv import callbacks, checkpoint_files, distributed
from tfadv.training import checkpoints

X, Y = cases.images(32, seed=4)


def mine(batches=4):
    """Some batches of four images, different ones on each worker."""
    rank = distributed.rank()
    return X[rank::2][: 4 * batches], Y[rank::2][: 4 * batches]


class Once(keras.callbacks.Callback):
    """Does something on one worker at a moment: `(epoch, batch)`, or `(epoch, "end")`."""

    def __init__(self, rank, moment, act):
        super().__init__()
        self.rank, self.moment, self.act = rank, moment, act

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.reach((self.epoch, batch))

    def on_epoch_end(self, epoch, logs=None):
        self.reach((epoch, "end"))

    def reach(self, moment):
        if distributed.rank() == self.rank and moment == self.moment:
            self.act(self.model)


def stop(model):
    model.stop_training = True


def slow_down(model):
    model.optimizer.learning_rate.assign(0.025)


def lose_momentum(model):
    model.optimizer.momentum = 0.25
    # Keras takes that up where the step is traced again, as for a batch of another size.
    model.train_function.callback.install()


def network():
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    model = cases.network(keras.layers.Dropout(0.3))
    optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
    return cases.compiled(model, optimizer, metrics=["accuracy"])


def small():
    return cases.compiled(cases.network(bias=False))


def fit(*others, first=None, x=None, y=None, epochs=3, model=None, training=None, **options):
    """The outcome of a `fit`, with our callback before others, as plain values."""
    model = model or network()
    training = training or callbacks.AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    if x is None:
        x, y = mine()
    if isinstance(x, np.ndarray):
        options = {"batch_size": 4, **options}
    raised, history = "", keras.callbacks.History()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            history = model.fit(
                x,
                y,
                epochs=epochs,
                verbose=0,
                shuffle=False,
                callbacks=[*filter(None, [first]), training, *others],
                **options,
            )
        except (ValueError, RuntimeError) as error:
            raised = f"{type(error).__name__}: {error}"
    return {
        "raised": raised,
        "warned": [str(each.message) for each in warned],
        "history": {k: v for k, v in history.history.items() if k != "communication_share"},
        "updates": int(model.optimizer.iterations),
        "rate": float(model.optimizer.learning_rate),
        "state": [variable.numpy() for variable in model.variables + model.optimizer.variables],
    }


def generator(batches):
    """A data set of unknown length with so many batches in each epoch."""
    x, y = mine()

    def batch():
        for start in range(0, 4 * batches, 4):
            yield x[start : start + 4], y[start : start + 4]

    spec = (tf.TensorSpec([4, *cases.SHAPE]), tf.TensorSpec([4], tf.int64))
    return tf.data.Dataset.from_generator(batch, output_signature=spec)


def validated():
    """Each worker with its own validation set, on which worker 0 gets worse; then rank 0 alone."""
    rank = distributed.rank()
    x, y = mine()
    own = (x[: 4 + 8 * rank], (y if rank else (y + 1) % 4)[: 4 + 8 * rank])
    plateau = keras.callbacks.ReduceLROnPlateau(patience=0, factor=0.1, min_delta=1e-9)
    early = keras.callbacks.EarlyStopping(patience=1)
    model = network()
    first = fit(plateau, early, model=model, validation_data=own)
    sums = [v * len(own[0]) for v in model.evaluate(*own, verbose=0)]
    images, *sums = distributed.total([len(own[0]), *sums])
    # Standing first, where data that end early would have it wait for a worker that trains on.
    robust = callbacks.RobustEvaluation(own, None, value_range=(0, 1))
    return {
        "own": {**first, "expected": [value / images for value in sums]},
        "of rank 0": fit(epochs=1, validation_data=None if rank else own),
        "robust": fit(
            first=robust, x=generator(4 - rank), epochs=1, validation_data=own, model=network()
        ),
    }


def uneven(rank):
    return {
        "steps": fit(x=(m := mine(2 + 2 * rank))[0], y=m[1]),
        "epochs": fit(epochs=1 + rank),
        "network": fit(model=network() if rank else small()),
        "early": fit(x=generator(3 if rank else 4)),
        # Keras leaves the loop itself where a finite set has too few for `steps_per_epoch`.
        "few": fit(
            x=tf.data.Dataset.from_tensor_slices(mine()).batch(4).take(3 - rank),
            steps_per_epoch=3,
            training=callbacks.AdversarialTraining(
                cases.Mirror(), value_range=(0, 1), compression="fp16"
            ),
        ),
        "none": fit(x=generator(1 - rank), epochs=1),
    }


def stopped():
    return {
        "within": fit(Once(1, (1, 1), stop), callbacks.SameWeights()),
        "at the end": fit(Once(0, (1, "end"), stop), epochs=5),
        "rate": fit(Once(1, (0, 1), slow_down)),
        "momentum": fit(Once(0, (1, 0), lose_momentum)),
        "running": fit(*[Once(0, (0, "end"), run_statistics)][: 1 + distributed.rank()]),
    }


def run_statistics(model):
    model.train_function.callback.step.running_statistics = True


class Slow(cases.Mirror):
    """Sends worker 1 a signal in the third part of an update; each part takes some time."""

    def __init__(self, update):
        super().__init__()
        self.parts, self.update = 0, update

    def __call__(self, logits_fn, images, labels, **options):
        def work(images):
            self.parts += 1
            if self.update is not None:
                if distributed.rank() == 1 and self.parts == self.update * 8 + 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.4)
            return images

        given = tf.numpy_function(work, [images], tf.float32)
        given.set_shape(images.shape)
        return super().__call__(logits_fn, given, labels, **options)


def interrupted(folder):
    """A training in which one worker is asked to stop within an update, and is resumed."""
    attack, model = Slow(update=1), network()
    x, y = mine()

    def train(attack, model, progress=None, **options):
        checkpoint = callbacks.Checkpoint(folder)
        training = callbacks.AdversarialTraining(
            attack, accumulation_steps=8, value_range=(0, 1), progress=progress
        )
        preemption = callbacks.Preemption(checkpoint)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
        if progress is not None:
            data = data.skip(progress.step)
        others = [checkpoint, preemption] if options.pop("stoppable", True) else []
        result = fit(
            *others,
            x=data.repeat(),
            training=training,
            model=model,
            epochs=1,
            steps_per_epoch=2,
            **options,
        )
        assert not result["raised"], result["raised"]

    status = None
    try:
        train(attack, model)
    except SystemExit as error:
        status = error.code
    path = checkpoint_files.newest(folder, print)
    again, whole = network(), network()
    progress = checkpoints.restore(again, path)
    train(Slow(None), again, progress, stoppable=False)
    train(Slow(None), whole, stoppable=False)
    return {
        "status": status,
        "parts": attack.parts,
        "name": path.name,
        "updates": int(model.optimizer.iterations),
        "again": [v.numpy() for v in again.variables + again.optimizer.variables],
        "whole": [v.numpy() for v in whole.variables + whole.optimizer.variables],
    }


def everything(folder):
    results = {**validated(), **uneven(distributed.rank())}
    results |= stopped()
    results["interrupted"] = interrupted(folder)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return workers.run(everything, 2, str(tmp_path_factory.mktemp("checkpoints")), timeout=480)


@pytest.fixture
def of_both(results):
    return lambda name: [result[name] for result in results]


def assert_same(pair):
    """The workers end as one."""
    cases.assert_equal_bits(pair[0]["state"], pair[1]["state"])
    assert pair[0]["history"] == pair[1]["history"]
    assert pair[0]["raised"] == pair[1]["raised"]


def test_validation_logs_are_those_of_all_images(of_both):
    pair = of_both("own")
    assert_same(pair)
    for each in pair:
        assert not each["raised"] and each["rate"] < 0.5  # there was a plateau
        values = [each["history"][name][-1] for name in ("val_loss", "val_accuracy")]
        np.testing.assert_allclose(values, each["expected"], rtol=1e-5)


def test_a_worker_without_validation_data_has_the_logs_of_those_with(of_both):
    pair = of_both("of rank 0")
    assert_same(pair)
    assert len(pair[1]["history"]["val_loss"]) == 1


def test_an_evaluation_of_shares_counts_what_keras_counts(of_both):
    pair = of_both("robust")
    assert_same(pair)
    logs = pair[0]["history"]
    assert logs["val_clean_accuracy"] == [pytest.approx(logs["val_accuracy"][0], abs=1e-6)]
    assert pair[0]["updates"] == 3


def test_steps_and_epochs_that_differ_are_refused(of_both):
    steps, epochs, networks = of_both("steps"), of_both("epochs"), of_both("network")
    for each in steps:
        assert each["raised"].startswith(
            "ValueError: steps per epoch must be the same on all workers; received 2 on worker 0 "
            "and 4 on worker 1"
        )
    for each in epochs:
        expected = "ValueError: epochs must be the same on all workers; received 1 on worker 0 and "
        assert each["raised"] == expected + "2 on worker 1"
    for each in networks:
        expected = "ValueError: the optimizer's momentum must be the same on all workers; received "
        assert each["raised"] == expected + "0.0 on worker 0 and 0.5 on worker 1"
    assert [each["updates"] for each in steps + epochs + networks] == [0] * 6


@pytest.mark.parametrize("case, updates", [("early", 9), ("few", 6)])
def test_data_that_end_early_on_one_worker_end_the_epoch_on_all(of_both, case, updates):
    pair = of_both(case)
    assert_same(pair)
    assert [each["updates"] for each in pair] == [updates] * 2
    assert len(pair[0]["history"]["loss"]) == 3
    ours = [text for text in pair[0]["warned"] if "and so did this epoch" in text]
    assert len(ours) == 1 and ours[0].startswith(
        f"the data of worker 1 ended after {updates // 3} batches, and so did this epoch on all"
    )
    # Keras's warning is true of worker 1 alone.
    assert not any("ran out of data" in text for text in pair[0]["warned"])
    assert any("ran out of data" in text for text in pair[1]["warned"])


def test_a_worker_without_any_batch_is_named(of_both):
    for each in of_both("none"):
        assert each["raised"] == (
            "TrainingError: data must hold at least one batch for each worker and epoch; received "
            "none on worker 1"
        )


@pytest.mark.parametrize("case, updates, epochs", [("within", 6, 2), ("at the end", 8, 2)])
def test_a_worker_that_stops_makes_all_stop_after_the_same_update(of_both, case, updates, epochs):
    pair = of_both(case)
    assert_same(pair)
    for each in pair:
        assert not each["raised"] and not each["warned"]
        assert each["updates"] == updates and len(each["history"]["loss"]) == epochs


@pytest.mark.parametrize(
    "case, name, values, updates",
    [
        ("rate", "learning_rate", "0.5 on worker 0 and 0.025 on worker 1", 2),
        ("momentum", "momentum", "0.25 on worker 0 and 0.5 on worker 1", 5),
    ],
)
def test_an_optimizer_that_differs_is_an_error_before_any_weight_does(
    of_both, case, name, values, updates
):
    pair = of_both(case)
    for each in pair:
        expected = f"TrainingError: {name} of the optimizer must be the same on all workers; "
        assert each["raised"].startswith(f"{expected}received {values} (")
        assert each["updates"] == updates
    model = len(network().variables)
    cases.assert_equal_bits(pair[0]["state"][:model], pair[1]["state"][:model])


def test_workers_that_trace_other_steps_are_told_before_they_meet(of_both):
    for each in of_both("running"):
        assert each["raised"] == (
            "TrainingError: running_statistics must be the same on all workers; received True on "
            "worker 0 and False on worker 1"
        )


def test_one_workers_signal_ends_an_update_after_its_part_and_a_resume_makes_it(of_both):
    pair = of_both("interrupted")
    for each in pair:
        assert each["status"] == 75 and each["updates"] == 1
        assert each["name"] == "epoch-0000-step-000001.keras"
        cases.assert_equal_bits(each["again"], each["whole"])
    first, second = (each["parts"] for each in pair)
    assert second == 8 + 3  # the part in which the signal came was its last
    assert first < 16, "the other worker was not told"
