"""Weights and their moving averages change places."""

import keras
import numpy as np
import pytest

from tests.training import cases
from tfadv.training import averages

X, Y = cases.images(8)


def ema(**options):
    return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7, **options)


MAKE = {
    "plain": ema,
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(ema()),
    "several": lambda: keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(ema())),
}


@pytest.mark.parametrize("kind", MAKE)
def test_exchanges_to_the_bit_and_back(kind):
    model = cases.compiled(cases.network(), MAKE[kind]())
    model.fit(X, Y, batch_size=2, verbose=0, shuffle=False)
    # `fit` ended with the averages in the model: some more updates part them.
    for _ in range(3):
        model.train_on_batch(X, Y)
    before, weights = cases.state(model), model.get_weights()
    averages.exchange(model.optimizer)
    exchanged = model.get_weights()
    assert all(np.any(a != b) for a, b in zip(exchanged, weights, strict=True))
    averages.exchange(model.optimizer)
    cases.assert_equal_bits(cases.state(model), before)
    averages.exchange(model.optimizer)
    # What Keras takes for the averages are now the weights that train.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    cases.assert_equal_bits(model.get_weights(), weights)


def test_without_averages_nothing_changes():
    model = cases.compiled(cases.network())
    model.train_on_batch(X, Y)
    before = cases.state(model)
    averages.exchange(model.optimizer)
    cases.assert_equal_bits(cases.state(model), before)
