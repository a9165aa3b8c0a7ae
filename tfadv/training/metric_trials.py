"""Tries a model's metrics on random data, to learn what nothing declares."""

import keras
import numpy as np
import tensorflow as tf

from tfadv.models import calling

_COUNT = 16  # images of a trial


def own_results(model, spec):
    """Names of the scalars that a model's own `compute_metrics` returns beside its metrics."""
    if type(model).compute_metrics is keras.Model.compute_metrics:
        return []
    states = [tf.convert_to_tensor(v.value) for v in model.metrics_variables]
    _, results = _update(model, states, _data(model, spec, seed=0, scale=None))
    known = model.get_metrics_result()
    return [
        name
        for name, value in (results or {}).items()
        if name not in known and tf.convert_to_tensor(value).shape.rank == 0
    ]


def check_sums(model, spec):
    """Raises for a metric whose changes by several workers do not add up.

    Keras's own metrics are sums over images. Others, such as a maximum, seldom say that they are
    not: their variables have Keras's default `aggregation="sum"` as well. So what a batch adds to
    each variable is compared between two states of the metric, where it must be the same.

    Args:
        model: A compiled and built Keras model.
        spec: The `tf.TypeSpec`s of a batch.

    Raises:
        ValueError: Naming the metric's variable.
    """
    variables = model.metrics_variables
    start = [tf.convert_to_tensor(v.value) for v in variables]
    tried = np.zeros(len(variables), bool)
    sums = np.ones(len(variables), bool)
    for scale in (None, 1.0, 10.0):  # probabilities, then logits
        data = [_data(model, spec, seed, scale) for seed in range(3)]
        try:
            later = start
            for batch in data[:2]:
                later, _ = _update(model, later, batch)
            ends = [_update(model, states, data[2])[0] for states in (start, later)]
        except Exception:  # a metric of a user may raise anything for data that are no images
            continue
        for place, states in enumerate(zip(start, ends[0], later, ends[1], strict=True)):
            states = np.array([state.numpy().astype("float64") for state in states])
            if np.isfinite(states).all():
                tried[place] = True
                sums[place] &= _same_change(*states, variables[place].dtype)
    for place, variable in enumerate(variables):
        declared = variable.aggregation == "sum" and np.isfinite(start[place].numpy()).all()
        if not (sums[place] if tried[place] else declared):
            raise ValueError(
                "metrics must be sums over images to be added up over several workers; received "
                f"{variable.path!r}, which is none: compute it on validation_data, or in a callback"
            )


def _same_change(start, end, later, later_end, dtype):
    tolerance = 1e-4 if dtype not in ("float16", "bfloat16") else 3e-2
    size = np.abs([start, end, later, later_end]).max(axis=0)
    return bool(np.all(np.abs((end - start) - (later_end - later)) <= tolerance * size))


def _update(model, states, data):
    """The states of the metrics after one more batch, and what `compute_metrics` returned."""
    variables = model.metrics_variables
    weights = [(v, v.value) for v in model.trainable_variables]
    x, y, outputs, sample_weight = data
    with keras.StatelessScope([*weights, *zip(variables, states, strict=True)]) as scope:
        # Which may update metrics as well.
        model.compute_loss(x, y, outputs, sample_weight)
        results = model.compute_metrics(x, y, outputs, sample_weight=sample_weight)
    return [scope.get_current_value(v) for v in variables], results


def _data(model, spec, seed, scale):
    """Random images, labels, outputs and weights as of a batch: `scale` of logits, or None."""
    rng = np.random.default_rng(seed)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(spec)

    def uniform(each):
        return each and tf.constant(rng.uniform(0, 1, _shape(each)), each.dtype)

    x = tf.nest.map_structure(uniform, x)
    outputs = getattr(model, "output", None) if isinstance(model, keras.Function) else None
    if outputs is None:
        outputs = calling.run(model, x, training=False, domain="adv")

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
    return x, y, outputs, tf.nest.map_structure(uniform, sample_weight)


def _shape(spec):
    return [_COUNT, *spec.shape[1:]]
