import itertools

import keras
import pytest

import tfadv
from tfadv import planning
from tfadv.planning import measured_rates


@pytest.mark.parametrize("attacked", [True, False])
def test_the_real_step_is_what_is_timed(attacked, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    cost = planning.network_cost(model)
    real = measured_rates._seconds
    # Two seconds a call without iterations, six with the four: what is left is the attack's.
    waits = itertools.cycle([2.0, 6.0] if attacked else [2.0])

    def seconds(function):
        assert real(function) > 0
        return next(waits)

    monkeypatch.setattr(measured_rates, "_seconds", seconds)
    attack = tfadv.attacks.PGD(8, num_steps=20) if attacked else None
    rates = planning.measure_rates(model, attack, cost, images=6, clean_ratio=0.5)
    if attacked:
        assert rates == (4 * 6 * cost.image_gradient / 4, 9 * cost.update / 2)
    else:
        assert rates == (6 * cost.update / 2,) * 2
    # The steps were made: each once to be traced, and five times.
    assert int(model.optimizer.iterations) == (12 if attacked else 6)
