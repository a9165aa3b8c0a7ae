"""Tries a model's metrics on random data, to learn what nothing declares."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_COUNT = 16  # images of a trial


def own_results(model: keras.Model, x: Any, y: Any, sample_weight: Any, outputs: Any) -> list[str]:
    """Names of the scalars that a model's own `compute_metrics` returns besides its metrics.

    Args:
        model: A compiled and built Keras model.
        x, y, sample_weight: The `tf.TensorSpec`s of a batch as the model takes it, or None.
        outputs: The Keras tensors that the model returns, as from `calling.output_spec`.
    """
    if type(model).compute_metrics is keras.Model.compute_metrics:
        return []
    outputs = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), outputs)
    results = {}

    def trace(x, y, y_pred, weights):
        with keras.StatelessScope():
            results.update(model.compute_metrics(x, y, y_pred, sample_weight=weights) or {})

    tf.function(trace, autograph=False).get_concrete_function(x, y, outputs, sample_weight)
    known = model.get_metrics_result()
    return [
        name
        for name, value in results.items()
        if name not in known and getattr(value, "shape", tf.TensorShape([])).rank == 0
    ]


def check_sums(model: keras.Model, x: Any, y: Any, sample_weight: Any, outputs: Any) -> None:
    """Raises for a metric whose changes by several workers do not add up.

    Keras's own metrics are sums over images. Others, such as a maximum, seldom declare that they
    are not: their variables also have Keras's default `aggregation="sum"`. So this compares what a
    batch adds to each variable in two states of the metric; it must be the same.

    Args:
        model, x, y, sample_weight, outputs: As in `own_results`.

    Raises:
        ValueError: Naming the metric's variable.
    """
    variables = model.metrics_variables
    start = [tf.convert_to_tensor(v.value) for v in variables]
    tried = np.zeros(len(variables), bool)
    sums = np.ones(len(variables), bool)
    for scale in (None, 1.0, 10.0):  # probabilities, then logits
        data = [_data(x, y, sample_weight, outputs, seed, scale) for seed in range(3)]
        try:
            later = start
            for batch in data[:2]:
                later = _update(model, later, batch)
            ends = [_update(model, states, data[2]) for states in (start, later)]
        except Exception:  # a user's metric may raise anything for data that are not images
            continue
        for place, states in enumerate(zip(start, ends[0], later, ends[1], strict=True)):
            values = np.array([state.numpy().astype("float64") for state in states])
            if np.isfinite(values).all():
                tried[place] = True
                sums[place] &= _same_change(values, variables[place].dtype)
    for place, variable in enumerate(variables):
        declared = variable.aggregation == "sum" and np.isfinite(start[place].numpy()).all()
        if not (sums[place] if tried[place] else declared):
            raise ValueError(
                "metrics must be sums over images to be added up over several workers; received "
                f"{variable.path!r}, which is not: compute it on validation_data or in a callback"
            )


def _same_change(values, dtype):
    start, end, later, later_end = values
    tolerance = 1e-4 if dtype not in ("float16", "bfloat16") else 3e-2
    size = np.abs(values).max(axis=0)
    return bool(np.all(np.abs((end - start) - (later_end - later)) <= tolerance * size))


def _update(model, states, data):
    """The states of the metrics after one more batch."""
    variables = model.metrics_variables
    weights = [(v, v.value) for v in model.trainable_variables]
    x, y, outputs, sample_weight = data
    with keras.StatelessScope([*weights, *zip(variables, states, strict=True)]) as scope:
        model.compute_loss(x, y, outputs, sample_weight)  # it may update metrics too
        model.compute_metrics(x, y, outputs, sample_weight=sample_weight)
    return [scope.get_current_value(v) for v in variables]


def _data(x, y, sample_weight, outputs, seed, scale):
    """A random batch and outputs for it: logits of a scale, or probabilities for None."""
    rng = np.random.default_rng(seed)

    def uniform(each):
        return each and tf.constant(rng.uniform(0, 1, _shape(each)), each.dtype)

    def logits(each):
        values = rng.normal(size=_shape(each)) * (scale or 1.0)
        if scale is None:
            values = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
        return tf.constant(values, each.dtype)

    outputs = tf.nest.map_structure(logits, outputs)
    classes = tf.nest.flatten(outputs)[0].shape[-1]

    def labels(each):
        drawn = rng.integers(0, classes, _COUNT)
        if each.shape.rank == 2 and each.shape[-1] == classes:
            drawn = np.eye(classes)[drawn]
        return tf.cast(drawn.reshape(_shape(each)), each.dtype)

    y = tf.nest.map_structure(labels, y)
    x, sample_weight = (tf.nest.map_structure(uniform, each) for each in (x, sample_weight))
    return x, y, outputs, sample_weight


def _shape(spec):
    return [_COUNT, *spec.shape[1:]]
