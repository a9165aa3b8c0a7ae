"""Compiled metrics and a model's own `compute_loss` and `compute_metrics` in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases, keras_metrics
from tfadv.callbacks import AdversarialTraining

X, Y = cases.images(24)
WEIGHTS = np.linspace(0.5, 2, len(X)).astype("float32")


def train(model, labels, weights=None, parts=1):
    """Metrics of clean training, in which the mini-batches are the batches."""
    training = AdversarialTraining(None, accumulation_steps=parts)
    fit = {"batch_size": 12, "shuffle": False, "verbose": 0, "sample_weight": weights}
    history = model.fit(X, labels, callbacks=[training], **fit).history
    return {name: values[-1] for name, values in history.items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "one-hot"])
def test_every_metric_of_keras_is_that_of_all_images(sparse, weighted):
    names = keras_metrics.names(sparse)
    if weighted:  # Keras flattens one-hot labels for these, and not the weights
        names = [name for name in names if not name.endswith("IoU")]
    labels = Y if sparse else cases.one_hot(Y)
    metrics = [keras_metrics.make(name) for name in names]
    model = keras_metrics.classifier(metrics, sparse, weighted=weighted)
    weights = WEIGHTS if weighted else None
    logs = train(model, labels, weights, parts=3)
    plain = model.evaluate(
        X, labels, batch_size=len(X), sample_weight=weights, verbose=0, return_dict=True
    )
    for name in names:
        np.testing.assert_allclose(logs[name], plain[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("parts", [1, 3])
def test_metrics_that_are_no_sums_see_one_part_after_the_other(parts):
    model = keras_metrics.classifier([kind() for kind in keras_metrics.NO_SUMS])
    logs = train(model, cases.one_hot(Y), parts=parts)
    largest = model.predict(X, verbose=0).reshape(2 * parts, -1).max(axis=1)
    smoothed = 0.0
    for value in largest:
        smoothed = 0.5 * smoothed + 0.5 * value
    expected = {
        "MaxOutput": largest.max(),
        "MaxFromNothing": largest.max(),
        "Smoothed": smoothed,
        "LastOutput": largest[-1],
    }
    assert {name: logs[name] for name in expected} == pytest.approx(expected)


class Own(keras.Model):
    """Keras's examples of an own loss and own metrics, with a state and a result of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.own_loss = keras.metrics.Mean(name="own_loss")
        self.hits = keras.metrics.SparseCategoricalAccuracy(name="hits")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    # Keras passes the first four by position, and looks whether there is a `training`.
    def compute_loss(self, images, labels, logits, weights=None):
        loss = super().compute_loss(images, labels, logits, weights)
        loss += 0.1 * tf.reduce_mean(tf.square(logits))
        self.own_loss.update_state(loss, sample_weight=tf.shape(logits)[0])
        self.calls.assign_add(1.0)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self.hits.update_state(y, y_pred, sample_weight)
        return {**results, "hits": self.hits.result(), "largest": tf.reduce_max(y_pred)}


@pytest.mark.parametrize("parts", [1, 3])
def test_own_compute_loss_and_compute_metrics(parts):
    inner = cases.network(decay=1e-2)
    model = cases.compiled(Own(inner.inputs, inner.outputs), keras.optimizers.SGD(0.0))
    logs = train(model, Y, parts=parts)
    z = cases.logits(model, X)
    decay = 1e-2 * np.square(model.get_layer("logits").kernel.numpy()).sum()
    expected = cases.cross_entropy(z, Y).mean() + decay + 0.1 * np.square(z).mean()
    last = z[-12 // parts :].max()
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["own_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["hits"] == pytest.approx((z.argmax(axis=1) == Y).mean())
    assert logs["largest"] == pytest.approx(last, rel=1e-5)
    # The mean over the parts of an update, as of moving statistics: one more for each of two.
    assert float(model.calls) == 2.0


def test_own_loss_is_the_one_that_trains():
    models = []
    for own in (False, True):
        inner = cases.network()
        models.append(cases.compiled((Own if own else keras.Model)(inner.inputs, inner.outputs)))
        cases.train(models[-1], X, Y)
    kernels = [model.get_layer("logits").kernel.numpy() for model in models]
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-3


def test_metrics_that_are_not_finite_are_no_fault():
    class NotFinite(keras_metrics.MaxOutput):
        def update_state(self, y_true, y_pred, sample_weight=None):
            self.most.assign(self.most / 0.0)

    model = keras_metrics.classifier([NotFinite()], optimizer=keras.optimizers.SGD(0.1))
    before = model.get_weights()[0]
    assert np.isnan(train(model, cases.one_hot(Y))["MaxOutput"])
    assert np.any(model.get_weights()[0] != before)
