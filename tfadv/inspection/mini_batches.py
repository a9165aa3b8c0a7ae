import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfadv import models
from tfadv.inspection import layer_statistics
from tfadv.layers import MixtureBatchNormalization


@dataclasses.dataclass(frozen=True, eq=False)
class BatchStatistics:
    """What one batch normalization sees of a mini-batch in training.

    Args:
        path, domain: As of `LayerStatistics`.
        mean, variance: Arrays `[channels]`, float64: of the layer's input over the images of its
            domain and all positions; the variance is the biased one.
    """

    path: str
    domain: str | None
    mean: np.ndarray
    variance: np.ndarray


def batch_statistics(model, images, domain="adv"):
    """Measures the batch statistics of all batch normalization in a forward pass of training.

    Every layer before normalizes with its own batch statistics, as it does in training (Section
    4.3, Figure 6). They are read off what the layers would assign to their moving statistics:

    `assigned = momentum * moving + (1 - momentum) * batch`

    which holds in any model, and with moving statistics of zero, as this pass has them, to the
    last digit. The model stays as it is.

    Args:
        model: A Keras model with batch normalization, each layer of it called once.
        images: `[batch, ...]`, in the model's range; adversarial ones first.
        domain: As of `tfadv.models.call`: `"adv"`, `"clean"` or the number of adversarial images.

    Returns:
        A list of `BatchStatistics` in network order. Branches that no image reaches and frozen
        layers, which have no batch statistics, are left out.

    Raises:
        ValueError: If a layer is one of Keras's with `renorm=True`, which normalizes and learns by
            another rule.
    """
    layers = _layers(model)
    variables = [v for *_, layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    with keras.StatelessScope([(v, np.zeros(v.shape)) for v in variables]) as scope:
        before = [scope.get_current_value(v) for v in variables]
        models.call(model, tf.cast(images, tf.float32), training=True, domain=domain)
        after = [scope.get_current_value(v) for v in variables]
    assigned = iter(None if new is old else new for old, new in zip(before, after, strict=True))
    found = []
    for (path, branch, layer), mean, variance in zip(layers, assigned, assigned, strict=True):
        share = 1 - layer.momentum
        if mean is not None and share > 0:
            moments = [np.asarray(moment, np.float64) / share for moment in (mean, variance)]
            found.append(BatchStatistics(path, branch, *moments))
    return found


def _layers(model):
    """(path, domain, batch normalization) of a model."""
    found = []
    for path, layer in layer_statistics.normalizations(model).items():
        if isinstance(layer, MixtureBatchNormalization):
            found += [(path, "adv", layer.adv), (path, "clean", layer.clean)]
        elif getattr(layer, "renorm", False):
            raise ValueError(f"model must not have renorm=True; its layer {path!r} has")
        else:
            found.append((path, None, layer))
    return found
