"""Updates that are not finite are skipped, or end the training; they reach no variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv import callbacks
from tfadv.training import TrainingError


def compiled():
    model = cases.normalized("bn")
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def fit(model, bad, max_bad_steps=0, **options):
    """Four updates; those in `bad` have a sample weight that is not finite."""
    x, y = cases.images(4)
    weights = np.ones([4, 4], "float32")
    for step, value in bad.items():
        weights[step - 1, 2] = value
    data = tf.data.Dataset.from_tensor_slices(weights).map(lambda w: (x, y, w))
    training = callbacks.AdversarialTraining(
        cases.Mirror(), value_range=(0, 1), max_bad_steps=max_bad_steps, **options
    )
    model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[training])
    return training


def state(model):
    """Values by path, without the optimizer's own name, which is counted up in a process."""
    variables = model.variables + model.optimizer.variables
    named = {v.path.partition("/")[2] if "sgd" in v.path else v.path: v for v in variables}
    return {path: v.numpy() for path, v in named.items() if "iteration" not in path}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_ends_the_training_and_changes_nothing(value):
    before = compiled()
    fit(before, {})  # four good ones, to be told from three
    model, two = compiled(), compiled()
    with pytest.raises(TrainingError, match=r"^skipped 1 .* was update 3, on worker\(s\) 0$"):
        fit(model, {3: value})
    with pytest.raises(TrainingError, match="was update 3"):
        fit(two, {3: value}, max_bad_steps=0)
    assert int(model.optimizer.iterations) == 3
    for path, array in state(model).items():
        assert np.all(np.isfinite(array)), path
        np.testing.assert_array_equal(array, state(two)[path])
    assert any(np.any(a != state(before)[path]) for path, a in state(model).items())


def test_some_may_be_skipped():
    model, expected = compiled(), compiled()
    training = fit(model, {2: np.nan, 4: np.inf}, max_bad_steps=2)
    assert (
        training.step.agreement.skipped_updates == 2
        and training.step.agreement.faulty_workers == [0]
    )
    assert int(model.optimizer.iterations) == 4
    # As if there had been no such updates; nothing here depends on the number of an update.
    x, y = cases.images(4)
    data = tf.data.Dataset.from_tensors((x, y, np.ones(4, "float32"))).repeat(2)
    other = callbacks.AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    history = expected.fit(data, verbose=0, shuffle=False, callbacks=[other]).history
    for path, array in state(model).items():
        np.testing.assert_array_equal(array, state(expected)[path])
    logs = model.history.history
    assert logs["loss"] == history["loss"] and logs["accuracy"] == history["accuracy"]
    with pytest.raises(TrainingError, match="skipped 3 .* max_bad_steps=2"):
        fit(compiled(), {1: np.nan, 2: np.nan, 3: np.nan}, max_bad_steps=2)


def test_gradients_at_the_smallest_loss_scale_are_skipped():
    model = compiled()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1.0)

    def loss(y_true, y_pred):
        # Finite, with a gradient that is not.
        return tf.reduce_sum(tf.sqrt(y_pred - tf.stop_gradient(y_pred)), axis=-1)

    model.compile(scaled, loss)
    training = fit(model, {}, max_bad_steps=4)
    assert training.step.agreement.skipped_updates == 4
    assert int(scaled.inner_optimizer.iterations) == 4  # the learning rate goes on
