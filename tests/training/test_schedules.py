"""The learning rate at every step of the paper's 110 epochs, by the pipeline's rule."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.training.schedules import WarmupExponential, WarmupSteps

IMAGES = 1_281_167


def rule(batch, steps, epochs=110):
    """In float64: 0.1 * batch / 256, warmed up over 5 epochs from 0.1, / 10 at 35, 70, 95."""
    base = 0.1 * batch / 256
    step = np.arange(epochs * steps)
    rate = base * 10.0 ** -np.digitize(step, np.multiply((35, 70, 95), steps))
    if base > 0.1:
        warm = np.interp(step, [0, 5 * steps], [0.1, base])
        rate = np.where(step < 5 * steps, warm, rate)
    return rate


@pytest.mark.parametrize("batch", [256, 512, 4096, 8192])
def test_every_step_of_110_epochs(batch):
    steps = round(IMAGES / batch)
    schedule = WarmupSteps(0.1, batch, steps)
    # What the optimizer asks it: an int64 scalar.
    rates = tf.vectorized_map(schedule, tf.range(110 * steps, dtype=tf.int64))
    np.testing.assert_allclose(rates, rule(batch, steps), rtol=1e-6)


@pytest.mark.parametrize("batch", [128, 1536])
def test_every_step_of_220_epochs_of_exponential_decay(batch):
    """Appendix A: 0.045, times 0.94 every 2 epochs, with the warm-up of the other schedule."""
    steps = round(IMAGES / batch)
    count = 220 * steps if batch == 1536 else 30 * steps
    rates = tf.vectorized_map(WarmupExponential(0.045, batch, steps), tf.range(count))
    step = np.arange(count)
    base = 0.045 * batch / 256
    expected = base * 0.94 ** (step // (2 * steps))
    if base > 0.045:
        warm = np.interp(step, [0, 5 * steps], [0.045, base])
        expected = np.where(step < 5 * steps, warm, expected)
    np.testing.assert_allclose(rates, expected, rtol=2e-6)


def test_exponential_decay_ends_where_the_stepwise_one_does():
    # "To ensure these two policies reach similar learning rates by the end of training": with the
    # learning rates of Table 3's rows 1 and 2, and without what they share.
    last = float(WarmupExponential(0.045, 256, 10)(2199))
    assert last == pytest.approx(0.045 * 0.94**109) and 2e-5 < last < 1e-4
    assert float(WarmupSteps(0.045, 256, 10)(1099)) == pytest.approx(4.5e-5)


def test_without_warm_up_and_decay():
    schedule = WarmupSteps(0.1, 128, 10, decay_epochs=())
    assert [float(schedule(step)) for step in (0, 50, 10**6)] == pytest.approx([0.05] * 3)
    schedule = WarmupSteps(0.1, 512, 10, warmup_epochs=0, decay_epochs=(1,))
    assert [float(schedule(step)) for step in (0, 9, 10)] == pytest.approx([0.2, 0.2, 0.02])


def test_optimizer_reads_it_at_its_own_step():
    optimizer = keras.optimizers.SGD(WarmupSteps(0.1, 512, 2, warmup_epochs=1, decay_epochs=(2,)))
    variable = keras.Variable(0.0)
    optimizer.build([variable])
    moved = []
    for _ in range(6):
        before = float(variable)
        optimizer.apply([tf.constant(1.0)])
        moved.append(before - float(variable))
    assert moved == pytest.approx([0.1, 0.15, 0.2, 0.2, 0.02, 0.02], rel=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupSteps(0.2, 1024, 7, warmup_epochs=3, decay_epochs=[4, 9]),
        WarmupExponential(0.2, 1024, 7, warmup_epochs=3, decay_rate=0.5, decay_every=4),
    ],
)
def test_serialization_round_trip(schedule):
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(copy) is type(schedule) and copy.get_config() == schedule.get_config()
    for step in range(0, 90, 7):
        assert float(copy(step)) == float(schedule(step))
    optimizer = keras.optimizers.deserialize(
        keras.optimizers.serialize(keras.optimizers.SGD(schedule))
    )
    assert float(optimizer.learning_rate) == float(schedule(0))
