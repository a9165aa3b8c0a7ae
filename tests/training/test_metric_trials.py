"""Which metrics are sums over images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import cases, keras_metrics
from tfadv.training import metric_trials


def spec(labels, weights=False):
    return (
        tf.TensorSpec([None, *cases.SHAPE]),
        labels,
        tf.TensorSpec([None]) if weights else None,
        keras.KerasTensor([None, cases.CLASSES]),
    )


ONE_HOT = tf.TensorSpec([None, cases.CLASSES])
SPARSE = tf.TensorSpec([None], tf.int64)


def built(metrics, labels):
    model = keras_metrics.classifier(metrics, labels is SPARSE)
    x, y = cases.images(2)
    model.test_on_batch(x, y if labels is SPARSE else cases.one_hot(y))
    model.reset_metrics()
    return model


@pytest.mark.parametrize("sparse", [True, False])
def test_all_of_keras_are(sparse):
    names = keras_metrics.names(sparse)
    assert len(names) > (2 if sparse else 30)
    labels = SPARSE if sparse else ONE_HOT
    model = built([keras_metrics.make(name) for name in names], labels)
    before = [v.numpy() for v in model.metrics_variables]
    for weights in (False, True):
        metric_trials.check_sums(model, *spec(labels, weights))
    # The trials change no state.
    cases.assert_equal_bits([v.numpy() for v in model.metrics_variables], before)


def test_labels_may_be_columns():
    model = built(["accuracy"], SPARSE)
    metric_trials.check_sums(model, *spec(tf.TensorSpec([None, 1], tf.int64)))


@pytest.mark.parametrize("kind", keras_metrics.NO_SUMS)
def test_names_one_that_is_not(kind):
    model = built(["categorical_accuracy", kind()], ONE_HOT)
    message = f"metrics must be sums over images .* received '{kind.__name__}/most', which is not"
    with pytest.raises(ValueError, match=message) as raised:
        metric_trials.check_sums(model, *spec(ONE_HOT))
    assert "\n" not in str(raised.value)


class Picky(keras_metrics.MaxOutput):
    """Cannot be tried: it raises for data that are no images of its own."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        raise RuntimeError("these are no images of mine")


@pytest.mark.parametrize("aggregation", ["sum", "mean", "only_first_replica"])
def test_of_one_that_cannot_be_tried_the_declaration_counts(aggregation):
    class Declared(Picky):
        def add_variable(self, *args, **kwargs):
            return super().add_variable(*args, **{**kwargs, "aggregation": aggregation})

    model = built(["categorical_accuracy"], ONE_HOT)
    metric = Declared()
    model.compute_metrics = lambda *_, **__: metric.update_state(None, None)
    model._metrics.append(metric)
    if aggregation == "sum":
        metric_trials.check_sums(model, *spec(ONE_HOT))
    else:
        with pytest.raises(ValueError, match="received 'MaxOutput/most', which is not"):
            metric_trials.check_sums(model, *spec(ONE_HOT))


class Largest(keras.Model):
    """A model whose own `compute_metrics` returns more than its metrics."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "largest": tf.reduce_max(y_pred), "all": y_pred}


def test_what_a_model_returns_beside_its_metrics():
    inner = cases.network()
    model = cases.compiled(Largest(inner.inputs, inner.outputs), metrics=["accuracy"])
    x, y = cases.images(2)
    model.test_on_batch(x, y)
    assert metric_trials.own_results(model, *spec(SPARSE)) == ["largest"]
    assert metric_trials.own_results(built(["accuracy"], SPARSE), *spec(SPARSE)) == []
    assert np.isfinite(model.evaluate(x, y, verbose=0, return_dict=True)["largest"])
