"""Statistics of batch normalization: those that a model holds, and those of a mini-batch."""

import collections
import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv import keras_internals, models
from tfadv.layers import MixtureBatchNormalization


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics and parameters of one batch normalization, or of one branch of a mixture.

    Args:
        path: String, the layer's name; if several layers of the model have that name, it begins
            with the names of the models around the layer: `"encoder/norm"`.
        domain: `"adv"` or `"clean"`, the branch of a mixture; None for a plain batch normalization.
        moving_mean, moving_variance: Arrays `[channels]`, float32 or float64.
        gamma, beta: Arrays `[channels]`, or None if the layer has none. Both branches of a mixture
            with shared affine parameters have the same ones.
        epsilon: Float, added to the variance.
    """

    path: str
    domain: str | None
    moving_mean: np.ndarray
    moving_variance: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    epsilon: float


@dataclasses.dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Statistics of a mini-batch in one batch normalization, in training.

    Args:
        path, domain: As in `LayerStatistics`.
        mean, variance: Arrays `[channels]`, float64, of the layer's input over all positions of the
            images of its domain. The variance is the biased one.
    """

    path: str
    domain: str | None
    mean: np.ndarray
    variance: np.ndarray


def statistics(model: keras.Model) -> list[LayerStatistics]:
    """Collects statistics and parameters of all batch normalization layers of a model.

    Args:
        model: A Keras model, with mixtures, tfadv's or Keras's own batch normalization, also in
            nested models.

    Returns:
        A list of `LayerStatistics` in network order, the adv branch of a mixture before its clean
        branch; empty for a model without batch normalization. The arrays are copies.

    Raises:
        ValueError: If the model is not built yet.

    Example:

    ```python
    for layer in tfadv.inspection.statistics(model):
        print(layer.path, layer.domain, layer.moving_mean.mean())
    ```
    """
    return [
        record
        for path, layer in normalizations(model).items()
        for record in layer_records(path, layer)
    ]


def batch_statistics(
    model: keras.Model, images: Any, domain: str | int | tf.Tensor = "adv"
) -> list[BatchStatistics]:
    """Measures the statistics of a mini-batch in all batch normalization layers, in training.

    Each layer sees its input as in training, where all layers before it normalize with the
    statistics of the batch (Section 4.3, Figure 6). The statistics are computed from the values
    that the layers would assign to their moving statistics:

    `assigned = momentum * moving + (1 - momentum) * batch`

    This holds in any model, and exactly to the last digit because this call sets the moving
    statistics to zero. The model itself does not change.

    Args:
        model: A Keras model that calls each of its batch normalization layers once.
        images: `[batch, ...]`, in the model's range; adversarial ones first.
        domain: As in `tfadv.models.call`: `"adv"`, `"clean"` or the number of adversarial images.

    Returns:
        A list of `BatchStatistics` in network order. It leaves out branches that get no images,
        and frozen layers, which do not use batch statistics.

    Raises:
        ValueError: If a layer is one of Keras's with `renorm=True`, which normalizes and learns by
            another rule.

    Example:

    ```python
    for layer in tfadv.inspection.batch_statistics(model, images):
        print(layer.path, layer.mean.mean(), layer.variance.mean())
    ```
    """
    layers = []
    for path, layer in normalizations(model).items():
        if getattr(layer, "renorm", False):
            raise ValueError(f"model must not have renorm=True; its layer {path!r} has")
        layers += [(path, *branch) for branch in _branches(layer)]
    variables = [v for *_, layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    with keras.StatelessScope([(v, np.zeros(v.shape)) for v in variables]) as scope:
        before = [scope.get_current_value(v) for v in variables]
        models.call(model, tf.cast(images, tf.float32), training=True, domain=domain)
        after = [scope.get_current_value(v) for v in variables]
    records = []
    assigned = iter(None if new is old else new for old, new in zip(before, after, strict=True))
    for (path, branch, layer), mean, variance in zip(layers, assigned, assigned, strict=True):
        share = 1 - layer.momentum
        if mean is not None and share > 0:
            moments = (np.asarray(moment, np.float64) / share for moment in (mean, variance))
            records.append(BatchStatistics(path, branch, *moments))
    return records


def pairs(
    records: list[LayerStatistics],
) -> dict[str, tuple[LayerStatistics, LayerStatistics]]:
    """Selects the mixtures among the records of `statistics`.

    Returns:
        A dictionary in network order, path -> (adv record, clean record).
    """
    clean = {record.path: record for record in records if record.domain == "clean"}
    return {adv.path: (adv, clean[adv.path]) for adv in records if adv.domain == "adv"}


def layer_records(path: str, layer: keras.layers.Layer) -> list[LayerStatistics]:
    """Returns the records of one of the `normalizations`: one, or the two of a mixture."""
    if not layer.built:
        raise ValueError(f"model must be built; its layer {path!r} has no statistics yet")
    return [
        LayerStatistics(
            path=path,
            domain=domain,
            moving_mean=_array(branch.moving_mean),
            moving_variance=_array(branch.moving_variance),
            gamma=None if branch.gamma is None else _array(branch.gamma),
            beta=None if branch.beta is None else _array(branch.beta),
            epsilon=float(branch.epsilon),
        )
        for domain, branch in _branches(layer)
    ]


def normalizations(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the mixtures and plain batch normalizations of a model by their path, in order."""
    named = list(_walk(model, (), set()))
    times = collections.Counter(names[-1] for names, _ in named)
    layers: dict[str, keras.layers.Layer] = {}
    for names, layer in named:
        path = names[-1] if times[names[-1]] == 1 else "/".join(names)
        number = 2
        unique = path
        while unique in layers:  # a subclassed model may give two of its layers the same name
            unique = f"{path}_{number}"
            number += 1
        layers[unique] = layer
    return layers


def _walk(layer, names, seen):
    # All layers of the model at once would come with those of a nested model backwards.
    for part in keras_internals.flatten_layers(layer, include_self=False, recursive=False):
        if id(part) in seen:
            continue
        seen.add(id(part))
        here = (*names, part.name)
        if isinstance(part, MixtureBatchNormalization | keras.layers.BatchNormalization):
            yield here, part
        else:
            yield from _walk(part, here, seen)


def _branches(layer):
    if isinstance(layer, MixtureBatchNormalization):
        return [("adv", layer.adv), ("clean", layer.clean)]
    return [(None, layer)]


def _array(variable):
    # A copy, because training goes on.
    values = np.array(keras.ops.convert_to_numpy(variable))
    # Keras's own layer keeps half precision under a half policy; NumPy cannot plot or sum it well.
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
