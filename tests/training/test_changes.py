"""What a step changes in a model, and what it leaves alone."""

import keras
import numpy as np
import tensorflow as tf

from tests.training import cases
from tfadv.training.changes import Changes
from tfadv.training.faults import Faults

COUNTS = tf.constant([1.0])
REQUESTS = tf.constant([0.0, 1.0])


def changes_of(model, **options):
    model = cases.compiled(model, keras.optimizers.SGD(1.0), **options)
    model.optimizer.build(model.trainable_variables)
    return Changes(model, COUNTS.shape, Faults())


def test_leaves_alone_what_had_no_part_in_the_loss():
    # Momentum or weight decay would move a variable whose gradient is zero.
    model = cases.network()
    model.compile(keras.optimizers.SGD(1.0, weight_decay=0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    kernel, bias = (variable.numpy() for variable in model.variables)
    changes = Changes(model, COUNTS.shape, Faults())
    gradients = [None, tf.ones(bias.shape)]
    sums = changes.collect(gradients, keras.StatelessScope(), COUNTS)
    assert changes.apply(sums, changes.metric_states(), 1, REQUESTS)[0].numpy() == COUNTS.numpy()
    np.testing.assert_array_equal(model.variables[0], kernel)
    np.testing.assert_allclose(model.variables[1], bias - 0.5 * bias - 1, rtol=1e-6)


def test_only_what_changed_travels(monkeypatch):
    sent = []
    monkeypatch.setattr("tfadv.distributed.size", lambda: 2)
    monkeypatch.setattr(
        "tfadv.distributed.mean", lambda tensors, *_: sent.extend(tensors) or tensors
    )
    model = cases.normalized("bn")
    model.get_layer("dense").trainable = False
    changes = changes_of(model)
    norm, logits = model.get_layer("norm"), model.get_layer("logits")
    with keras.StatelessScope() as layers:
        norm.moving_mean.assign(norm.moving_mean + 1.0)
    expected = norm.moving_mean + 1.0
    gradients = [tf.zeros(v.shape) for v in changes.trainable]
    assert len(gradients) == 4  # gamma, beta, kernel, bias
    sums = changes.collect([None, *gradients[1:]], layers, COUNTS)
    # Sums over parts have a place for everything: that is known before the first part.
    assert len(sums) == len(changes.zeros())
    changes.apply(sums, changes.metric_states(), 1, REQUESTS)
    metrics = [v.shape for v in model.metrics_variables]
    assert [tensor.shape for tensor in sent] == [
        norm.beta.shape,
        logits.kernel.shape,
        logits.bias.shape,
        norm.moving_mean.shape,
        COUNTS.shape,
        *metrics,
        [REQUESTS.shape[0] + 2],  # and of each worker, whether it found a fault
    ]
    np.testing.assert_array_equal(norm.moving_mean, expected)


def test_gradients_alone_are_compressed(monkeypatch):
    halves = []
    monkeypatch.setattr(
        "tfadv.distributed.mean",
        lambda tensors, name, half: halves.append([t.shape for t in tensors[:half]]) or tensors,
    )
    model = changes_of(cases.normalized("bn")).model
    for compression in ("none", "fp16"):
        changes = Changes(model, COUNTS.shape, Faults(), compression)
        gradients = [tf.zeros(v.shape) for v in changes.trainable]
        with keras.StatelessScope() as layers:
            model.get_layer("norm").moving_mean.assign(
                np.ones(model.get_layer("norm").moving_mean.shape)
            )
        # One of them had no part in the loss, and does not travel.
        sums = changes.collect([None, *gradients[1:]], layers, COUNTS)
        changes.apply(sums, changes.metric_states(), 1, REQUESTS)
    assert halves == [[], [v.shape for v in changes.trainable[1:]]]


def test_takes_the_mean_over_the_parts():
    model = cases.network()
    changes = changes_of(model)
    before = [variable.numpy() for variable in changes.trainable]
    sums = changes.zeros()
    for part in (1.0, 2.0, 6.0):
        gradients = [tf.fill(v.shape, part) for v in changes.trainable]
        added = changes.collect(gradients, keras.StatelessScope(), part * COUNTS)
        sums = [total + new for total, new in zip(sums, added, strict=True)]
    assert changes.apply(sums, changes.metric_states(), 3, REQUESTS)[0].numpy() == [3.0]
    for variable, value in zip(changes.trainable, before, strict=True):
        np.testing.assert_allclose(variable, value - 3.0, rtol=1e-6)


class Sightings(keras.metrics.Metric):
    """Counts images in integers."""

    def __init__(self):
        super().__init__()
        self.seen = self.add_variable((), "zeros", "int32", name="seen")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen.assign_add(keras.ops.shape(y_true)[0])

    def result(self):
        return self.seen


def test_metrics_count_on_in_integers(monkeypatch):
    # A mean over three workers times three is 6.9999995 in float32, which a cast makes 6.
    monkeypatch.setattr("tfadv.distributed.size", lambda: 3)
    monkeypatch.setattr(
        "tfadv.distributed.mean",
        lambda tensors, *_: [tensor * np.float32(1 - 1e-7) for tensor in tensors],
    )
    metric = Sightings()
    model = cases.network()
    changes = changes_of(model, metrics=[metric])
    changes.metrics = [metric.seen]
    with keras.StatelessScope() as metrics:
        metric.update_state(np.zeros(7), None)
    gradients = [tf.zeros(v.shape) for v in changes.trainable]
    sums = changes.collect(gradients, keras.StatelessScope(), COUNTS)
    changes.apply(sums, changes.metric_states(metrics), 1, REQUESTS)
    assert int(metric.result()) == 21


def test_random_generators_go_on():
    model = cases.network(keras.layers.Dropout(0.5, seed=1))
    changes = changes_of(model)
    (state,) = changes.other
    with keras.StatelessScope() as layers:
        first = model(np.ones((1, *cases.SHAPE)), training=True)
    gradients = [tf.zeros(v.shape) for v in changes.trainable]
    sums = changes.collect(gradients, layers, COUNTS)
    changes.apply(sums, changes.metric_states(), 1, REQUESTS)
    np.testing.assert_array_equal(state, layers.get_current_value(state))
    assert np.any(model(np.ones((1, *cases.SHAPE)), training=True) != first)
