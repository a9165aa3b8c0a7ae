"""Training whose pass is compiled by XLA ends with the variables of training without XLA."""

import pathlib
import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests import workers
from tests.training import cases
from tests.training.test_rematerialized_step import IMAGES, LABELS, States, mixed, residual
from tfadv import attacks
from tfadv.callbacks import AdversarialTraining, RunningStatistics
from tfadv.training import AdversarialStep

ROOT = pathlib.Path(__file__).resolve().parents[2]
X, Y = np.tile(IMAGES, (3, 1, 1, 1))[:10], np.tile(LABELS, 3)[:10]


def small():
    """Returns a model that XLA compiles quickly."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(IMAGES.shape[1:])
    x = keras.layers.Dense(4, use_bias=False)(keras.layers.Flatten()(inputs))
    x = keras.layers.ReLU()(tfadv.layers.normalization("mbn", 4)(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


class Share(keras.metrics.Metric):
    """A metric with an operation that XLA does not know."""

    def __init__(self):
        super().__init__(name="share")
        self.total = self.add_variable((), "zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        mean = tf.numpy_function(lambda values: values.mean(), [y_pred], tf.float32)
        self.total.assign_add(tf.ensure_shape(mean, []))

    def result(self):
        return self.total


def trained(model, jit_compile, last_epochs=0, batch=4, optimizer=None, **options):
    """The states after each of two epochs, and the logs."""
    cases.compiled(
        model,
        optimizer or keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01),
        metrics=["accuracy", Share()],
    )
    training = AdversarialTraining(
        attacks.PGD(epsilon=60, step_size=30, num_steps=2, start_from_clean=0.5),
        value_range=(0, 1),
        jit_compile=jit_compile,
        **options,
    )
    last = [RunningStatistics(last_epochs)] if last_epochs else []
    states = States()
    fit = {"batch_size": batch, "epochs": 2, "shuffle": False, "verbose": 0}
    count = len(X) if "accumulation_steps" not in options else 8
    model.fit(X[:count], Y[:count], callbacks=[training, *last, states], **fit)
    return states.seen


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=256)


@pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")  # few updates each
@pytest.mark.parametrize(
    ("make", "options"),
    [
        # The last batch is smaller, so that sizes are known in the graph alone.
        (small, {"clean_ratio": 0.4, "pairing_weight": 0.3, "batch": 6}),
        (small, {"accumulation_steps": 2, "attack_parts": 2, "optimizer": scaled}),
        pytest.param(
            lambda: residual("mbn"),
            {"clean_ratio": 0.5, "last_epochs": 1},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: residual("mbn"),
            {"accumulation_steps": 2, "rematerialize": "step", "optimizer": scaled},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: residual("bn"),
            {"batch_statistics": "apart", "rematerialize": "all", "optimizer": scaled},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: residual("gn"),
            {"accumulation_steps": 4, "attack_parts": 2, "clean_weight": 0.2, "batch": 8},
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "ratio and pairing",
        "parts and loss scale",
        "mixture and running statistics",
        "rematerialized step",
        "rematerialized, apart",
        "gn",
    ],
)
def test_trains_as_the_plain_step_does(make, options):
    states = []
    for jit_compile in (False, True):
        given = dict(options)
        if "optimizer" in given:
            given["optimizer"] = given["optimizer"]()
        states.append(trained(make(), jit_compile, **given))
    plain, compiled = states
    assert not np.array_equal(plain[0][0], plain[1][0])
    for values, expected in zip(compiled, plain, strict=True):
        largest = max(np.abs(value).max(initial=1) for value in expected)
        cases.assert_near(values, expected, 2e-5 * largest)


def digits_trained(folder):
    """Trains the digits by the program, without XLA and with it, on the workers there are.

    Returns:
        For each the variables of model and optimizer, and how many passes XLA compiled.
    """
    from tfadv.programs import train

    results = []
    for step_xla in ("off", "on"):
        given = [f"--flagfile={ROOT / 'flags' / 'quickstart.flags'}", "--width=4"]
        given += ["--batch_size=64", "--images_per_worker=16", "--epochs=1", "--steps_per_epoch=3"]
        given += ["--eval_num_steps=", f"--step_xla={step_xla}", f"--run_dir={folder}/{step_xla}"]
        compiled = []
        build = AdversarialStep._compiled_pass

        def counted(step, changes, compiled=compiled, build=build):
            compiled.append(step)
            return build(step, changes)

        with unittest.mock.patch.object(AdversarialStep, "_compiled_pass", counted):
            run = train.prepare(*train.parse(given))
            run.run()
        variables = [*run.model.variables, *run.model.optimizer.variables]
        results.append(([variable.numpy() for variable in variables], len(compiled)))
    return results


@pytest.mark.slow
def test_real_workers_agree_to_the_bit_and_with_those_without_xla(tmp_path):
    # Each worker accumulates two parts, through the mixture of the quickstart.
    first, second = workers.run(digits_trained, 2, str(tmp_path), timeout=900)
    for (values, count), (others, same_count) in zip(first, second, strict=True):
        assert count == same_count
        for value, other in zip(values, others, strict=True):
            np.testing.assert_array_equal(value, other)
    (plain, none), (compiled, one) = first
    assert (none, one) == (0, 1)
    for value, expected in zip(compiled, plain, strict=True):
        cases.assert_near([value], [expected], 2e-6 * np.abs(expected).max(initial=1))


@pytest.mark.slow
def test_random_layers_go_on_and_penalties_count():
    keras.utils.set_random_seed(2)
    model = mixed()
    cases.compiled(model, loss=keras.losses.SparseCategoricalCrossentropy())
    training = AdversarialTraining(
        attacks.PGD(num_steps=1), value_range=(0, 1), jit_compile=True, accumulation_steps=2
    )
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    before = [v.numpy() for v in seeds]
    model.fit(X[:8], Y[:8], batch_size=4, verbose=0, callbacks=[training])
    # Dropout draws once for each of two parts of two batches.
    for variable, value in zip(seeds, before, strict=True):
        assert (variable.numpy() - value).tolist() == [0, 4]


def test_xla_is_for_gpus_and_layers_that_support_it(monkeypatch):
    model = cases.compiled(cases.network(keras.layers.Dense(3)))
    model.optimizer.build(model.trainable_variables)

    def uses(**options):
        return AdversarialStep(model, None, None, **options)._uses_xla()

    assert not uses() and uses(jit_compile=True)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert uses() and not uses(jit_compile=False)
    model.layers[2].supports_jit = False
    assert not uses()
