import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import cases
from tfadv import callbacks, distributed, evaluation
from tfadv.attacks import PGD, steps

ATTACK = PGD(6, 2, num_steps=3)


def compiled(model):
    model.compile(
        keras.optimizers.SGD(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


class Watch(keras.callbacks.Callback):
    """A later callback, which also evaluates by hand."""

    def __init__(self, validation):
        super().__init__()
        self.validation, self.logs, self.expected = validation, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        results = evaluation.evaluate(
            self.model, self.validation, ATTACK, [3, 6], ("adv", "clean"), batch_size=8, seed=4
        )
        self.expected.append(
            {
                f"val_{kind}_{name}{branch}": value
                for result in results
                for kind in [f"pgd{result.num_steps}" if result.num_steps else "clean"]
                for branch in ["" if result.domain == "adv" else "_clean_branch"]
                for name, value in (("accuracy", result.accuracy), ("success", result.success))
                if value is not None
            }
        )


@pytest.mark.parametrize(
    ("strong", "expected"),
    [
        ({}, 1),
        # A graph serves one branch and one number of images.
        ({"domains": ["adv", "clean"], "batch_size": 4}, 3),
    ],
)
def test_training_and_its_evaluations_compile_one_attack(strong, expected, monkeypatch):
    # However many epochs, numbers and sizes of steps and restarts there are. XLA is not needed.
    compiled_loops = []

    def compile_without_xla(function):
        compiled_loops.append(function)
        return tf.function(function, autograph=False)

    monkeypatch.setattr(steps, "compiled", compile_without_xla)
    model = compiled(cases.mixture())
    x, y = cases.images(model, 16)
    attack = PGD(6, 2, num_steps=3, restarts=2, start_from_clean=0.2, jit_compile=True)
    training = callbacks.AdversarialTraining(attack)
    weak = callbacks.RobustEvaluation(
        (x[:8], y[:8]), attack.replace(start_from_clean=0.0), [3, 4, 6], batch_size=8
    )
    strong = callbacks.RobustEvaluation(
        (x[:8], y[:8]),
        attack.replace(epsilon=16, step_size=1, num_steps=101, restarts=1),
        **{"batch_size": 8, "every": 3, "name_prefix": "strong_", **strong},
    )
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[training, weak, strong])
    assert len(compiled_loops) == expected
    assert "strong_pgd101_accuracy" in model.history.history


def test_history_and_later_callbacks_see_what_evaluate_gives():
    model = compiled(cases.mixture())
    x, y = cases.images(model, 20)
    watch = Watch((x[:13], y[:13]))
    evaluating = callbacks.RobustEvaluation(
        (x[:13], y[:13]), ATTACK, [3, 6], ("adv", "clean"), batch_size=8, seed=4
    )
    history = model.fit(
        x.astype("float32"),
        y,
        batch_size=10,
        epochs=2,
        verbose=0,
        callbacks=[callbacks.AdversarialTraining(ATTACK), evaluating, watch],
    ).history
    names = set(watch.expected[0])
    assert (
        len(names) == 10
        and {
            "val_clean_accuracy",
            "val_pgd3_accuracy",
            "val_pgd6_success",
            "val_clean_accuracy_clean_branch",
            "val_pgd6_success_clean_branch",
        }
        <= names
    )
    for epoch, (logs, expected) in enumerate(zip(watch.logs, watch.expected, strict=True)):
        assert {name: logs[name] for name in names} == expected
        assert {name: history[name][epoch] for name in names} == expected
    assert watch.expected[0] != watch.expected[1]
    assert "adv_accuracy" in history
    assert evaluating.results[1].num_steps == 3


@pytest.mark.parametrize(
    "every, epochs", [(2, [1, 3]), (3, [2]), (lambda epoch: epoch in (0, 3), [0, 3])]
)
def test_only_at_chosen_epochs(every, epochs):
    model = compiled(cases.regression())
    x, y = cases.images(model, 6)
    seen = []
    model.fit(
        x.astype("float32"),
        y,
        epochs=4,
        verbose=0,
        callbacks=[
            callbacks.RobustEvaluation((x, y), None, every=every, name_prefix="test_"),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(set(logs))),
        ],
    )
    assert [epoch for epoch in range(4) if "test_clean_accuracy" in seen[epoch]] == epochs
    assert set.union(*seen) == {"loss", "test_clean_accuracy"}


def test_an_interrupted_fit_leaves_no_trace():
    model = compiled(cases.regression())
    x, y = cases.images(model, 12)
    x = x.astype("float32")
    plain = model.fit(x, y, verbose=0).history
    attributes = set(vars(model))

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[callbacks.RobustEvaluation((x, y), ATTACK), Stop()])
    assert set(vars(model)) == attributes
    assert set(model.fit(x, y, verbose=0).history) == set(plain) == {"loss"}


def test_data_that_do_not_fit_are_refused_before_the_first_epoch():
    model = compiled(cases.regression())
    x, y = cases.images(model, 6)
    with pytest.raises(ValueError, match="^every must be an integer of at least 1; received 0"):
        callbacks.RobustEvaluation((x, y), ATTACK, every=0)
    for given, options, message in (
        ((x[:, :3], y), {}, "^data must have images of shape"),
        ((x, y), {"num_steps": []}, "^num_steps must name at least one"),
        ((x, y), {"domains": ["both"]}, '^domains must be of "adv" and "clean"'),
    ):
        weights = model.get_weights()
        with pytest.raises(ValueError, match=message):
            model.fit(
                x.astype("float32"),
                y,
                verbose=0,
                callbacks=[callbacks.RobustEvaluation(given, ATTACK, **options)],
            )
        for value, known in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(value, known)


def test_doubtful_results_are_a_warning(monkeypatch):
    model = cases.mixture()
    callback = callbacks.RobustEvaluation(cases.images(model, 6), ATTACK, domains=["clean"])
    callback.set_model(model)
    callback.on_train_begin()
    with pytest.warns(UserWarning, match="^epoch 1: other branch .* this branch alone"):
        callback.on_epoch_end(0)
    # One voice is enough; another would be an error here.
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    callback.on_epoch_end(1)


def best(monitor="val_pgd3_accuracy", kind=keras.callbacks.ModelCheckpoint, **options):
    if kind is keras.callbacks.ModelCheckpoint:
        options = {"filepath": "best.keras", "save_best_only": True}
    return kind(monitor=monitor, mode="max", **options)


def fit(model, *others):
    x, y = cases.images(model, 6)
    return model.fit(x.astype("float32"), y, epochs=2, verbose=0, callbacks=list(others)).history


def ours(function):
    """The warnings of `function` that name this callback, beside those of Keras."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        function()
    return [text for text in (str(each.message) for each in warned) if "RobustEvaluation" in text]


@pytest.mark.parametrize("monitor", ["val_pgd3_accuracy", "val_clean_accuracy_clean_branch"])
def test_a_callback_that_monitors_its_numbers_must_stand_after_it(monitor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = compiled(cases.mixture())
    x, y = cases.images(model, 6)
    evaluating = callbacks.RobustEvaluation((x, y), ATTACK, domains=("adv", "clean"))
    training = callbacks.AdversarialTraining(None)
    history = fit(model, training, evaluating, best(monitor))
    saved = keras.saving.load_model("best.keras")
    results = evaluation.evaluate(saved, (x, y), ATTACK, domains=("adv", "clean"))
    assert max(history[monitor]) in [result.accuracy for result in results]

    message = f"ModelCheckpoint monitors '{monitor}', which RobustEvaluation adds .* put it after"
    [warning] = ours(lambda: fit(model, training, best(monitor), evaluating))
    assert re.match(message, warning) and "\n" not in warning


def test_others_that_monitor_its_numbers_are_named_too():
    model = compiled(cases.regression())
    evaluating = callbacks.RobustEvaluation(cases.images(model, 6), None)
    stopping = best("val_clean_accuracy", keras.callbacks.EarlyStopping)
    [warning] = ours(lambda: fit(model, stopping, evaluating))
    assert warning.startswith("EarlyStopping monitors 'val_clean_accuracy'")
    # `loss` is not a number of the evaluation, so monitoring it gives no warning.
    fit(model, keras.callbacks.EarlyStopping(monitor="loss"), evaluating)
