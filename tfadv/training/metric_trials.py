"""Tries a model's metrics on random data, to learn what nothing declares."""

import keras
import numpy as np
import tensorflow as tf

_COUNT = 16  # images of a trial


def own_results(model, x, y, sample_weight, outputs):
    """Names of the scalars that a model's own `compute_metrics` returns beside its metrics.

    Args:
        model: A compiled and built Keras model.
        x, y, sample_weight: The `tf.TensorSpec`s of a batch, as the model takes it, or None.
        outputs: What the model returns, as of `tfadv.models.calling.output_spec`.
    """
    if type(model).compute_metrics is keras.Model.compute_metrics:
        return []
    outputs = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), outputs)
    results = {}

    def trace(*arguments):
        with keras.StatelessScope():
            given = iter(arguments)
            x, y, y_pred, weights = tf.nest.map_structure(
                lambda spec: None if spec is None else next(given), specs
            )
            results.update(model.compute_metrics(x, y, y_pred, sample_weight=weights) or {})

    specs = (x, y, outputs, sample_weight)
    leaves = [spec for spec in tf.nest.flatten(specs) if spec is not None]
    tf.function(trace, autograph=False).get_concrete_function(*leaves)
    known = model.get_metrics_result()
    return [
        name
        for name, value in results.items()
        if name not in known and getattr(value, "shape", tf.TensorShape([])).rank == 0
    ]


def check_sums(model, x, y, sample_weight, outputs):
    """Raises for a metric whose changes by several workers do not add up.

    Keras's own metrics are sums over images. Others, such as a maximum, seldom say that they are
    not: their variables have Keras's default `aggregation="sum"` as well. So what a batch adds to
    each variable is compared between two states of the metric, where it must be the same.

    Args:
        model, x, y, sample_weight, outputs: As of `own_results`.

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
    """The states of the metrics after one more batch."""
    variables = model.metrics_variables
    weights = [(v, v.value) for v in model.trainable_variables]
    x, y, outputs, sample_weight = data
    with keras.StatelessScope([*weights, *zip(variables, states, strict=True)]) as scope:
        # Which may update metrics as well.
        model.compute_loss(x, y, outputs, sample_weight)
        model.compute_metrics(x, y, outputs, sample_weight=sample_weight)
    return [scope.get_current_value(v) for v in variables]


def _data(x, y, sample_weight, outputs, seed, scale):
    """A random batch with outputs: logits of a scale, or probabilities for None."""
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
