"""The changes of a step that workers send to each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases
from tfadv.training.agreement import Agreement
from tfadv.training.changes import Changes

COUNTS = tf.constant([1.0])
VALUES = tf.constant([0.0, 1.0])


@pytest.fixture(autouse=True)
def agreed(monkeypatch):
    # The other workers are not there to agree.
    no = tf.constant(False)
    monkeypatch.setattr(Agreement, "take", lambda self, mean: (no, no))


def changes_of(model, compression="none", **options):
    cases.compiled(model, keras.optimizers.SGD(1.0), **options)
    model.optimizer.build(model.trainable_variables)
    return Changes(model, COUNTS.shape, Agreement(model.optimizer), compression)


def apply(changes, gradients, layers, metrics=None):
    sums = changes.collect(gradients, layers, COUNTS)
    # Sums over parts have a place for everything, which is known before the first part.
    assert len(sums) == len(changes.zeros())
    changes.apply(sums, changes.metric_states(metrics), 1, VALUES)


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_only_what_changed_is_sent_and_only_gradients_compressed(monkeypatch, compression):
    sent, halves = [], []

    def mean(tensors, _, half):
        sent.extend(tensors)
        halves.extend(tensors[:half])
        return tensors

    monkeypatch.setattr("tfadv.distributed.size", lambda: 2)
    monkeypatch.setattr("tfadv.distributed.mean", mean)
    model = cases.normalized("bn")
    model.get_layer("dense").trainable = False
    changes = changes_of(model, compression)
    norm, logits = model.get_layer("norm"), model.get_layer("logits")
    with keras.StatelessScope() as layers:
        norm.moving_mean.assign(norm.moving_mean + 1.0)
    expected = norm.moving_mean + 1.0
    gradients = [tf.zeros(v.shape) for v in changes.trainable]
    assert len(gradients) == 4  # gamma, which had no part in the loss, beta, kernel, bias
    apply(changes, [None, *gradients[1:]], layers)
    trained = [norm.beta.shape, logits.kernel.shape, logits.bias.shape]
    metrics = [v.shape for v in model.metrics_variables]
    others = [norm.moving_mean.shape, COUNTS.shape, *metrics]
    assert [tensor.shape for tensor in sent[:-1]] == trained + others
    assert [tensor.shape for tensor in halves] == (trained if compression == "fp16" else [])
    np.testing.assert_array_equal(norm.moving_mean, expected)


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
    # A mean over three workers times three is 6.9999995 in float32, which a cast turns into 6.
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
    apply(changes, [tf.zeros(v.shape) for v in changes.trainable], keras.StatelessScope(), metrics)
    assert int(metric.result()) == 21
