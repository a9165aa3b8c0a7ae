"""Optimizers that are built from flags, against their rules in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.programs import building, flags
from tfadv.settings import TRAIN, Role, names

SLOPES = [0.5, -2.0, 1.0, 3.0]


def make(*given):
    settings = flags.parse(TRAIN, list(given))
    return building.optimizer(settings, steps_per_epoch=1)


def moved(optimizer):
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    values = []
    for slope in SLOPES:
        optimizer.apply([tf.constant(slope)])
        values.append(float(variable))
    return values


def test_rmsprop_of_appendix_a():
    rate = "--learning_rate=0.045 --decay=exponential --batch_size=256".split()
    expected, weight, square, momentum = [], 1.0, 0.0, 0.0
    for step, slope in enumerate(SLOPES):
        square = 0.9 * square + 0.1 * slope**2
        # 0.94 every second epoch, which here is every second step; epsilon 1 is under the root.
        momentum = 0.9 * momentum + 0.045 * 0.94 ** (step // 2) * slope / np.sqrt(square + 1)
        weight -= momentum
        expected.append(weight)
    assert moved(make("--optimizer=rmsprop", *rate)) == pytest.approx(expected, rel=1e-5)


def test_sgd_with_nesterov_momentum():
    expected, weight, velocity = [], 1.0, 0.0
    for slope in SLOPES:
        velocity = 0.9 * velocity + slope
        weight -= 0.1 * (slope + 0.9 * velocity)
        expected.append(weight)
    assert moved(make("--batch_size=256")) == pytest.approx(expected, rel=1e-5)


def test_half_precision_scales_the_loss():
    optimizer = make("--dtype=mixed_float16", "--optimizer=rmsprop", "--rmsprop_rho=0.8")
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert optimizer.inner_optimizer.rho == 0.8


def test_columns_and_metrics_of_a_training():
    settings = flags.parse(TRAIN, ["--eval_num_steps=10", "--strong_eval_num_steps=100"])
    assert list(building._columns(settings)) == [
        *("loss", "top5_accuracy", "adv_accuracy", "attack_success", "clean_accuracy"),
        *("val_clean_accuracy", "val_pgd10_accuracy", "val_clean_accuracy", "val_pgd100_accuracy"),
    ]
    flags_alone = ["--clean_ratio=0", "--eval_num_steps=", "--strong_eval_num_steps="]
    assert list(building._columns(flags.parse(TRAIN, flags_alone))) == [
        *("loss", "top5_accuracy", "adv_accuracy", "attack_success"),
    ]
    # The first five are those that TensorBoard shows.
    assert building._metrics(settings)[:5] == [
        ("validation", "accuracy/pgd100"),
        ("validation", "accuracy/pgd10"),
        ("validation", "accuracy/clean"),
        ("evaluation", "accuracy/pgd2000"),
        ("evaluation", "accuracy/pgd500"),
    ]
    first = {"depth", "norm", "clean_ratio", "num_steps", "epsilon"}
    assert set(names(TRAIN, Role.FIRST)) == first <= set(names(TRAIN, Role.SHOWN))
