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
    4.3, Figure 6). They are read off what the layers would assign to their moving statistics,

    `batch = moving + (assigned - moving) / (1 - momentum)`,

    which holds in any model and leaves six of float32's digits. The model stays as it is.

    Args:
        model: A Keras model with batch normalization.
        images: `[batch, ...]`, in the model's range; adversarial ones first.
        domain: As of `tfadv.models.call`: `"adv"`, `"clean"` or the number of adversarial images.

    Returns:
        A list of `BatchStatistics` in network order; branches that no image reaches are left out.
    """
    layers = _layers(model)

    @tf.function(autograph=False)
    def moved(images):
        with keras.StatelessScope() as scope:
            models.call(model, images, training=True, domain=domain)
        pairs = [
            [scope.get_current_value(v) for v in (layer.moving_mean, layer.moving_variance)]
            for _, _, layer in layers
        ]
        return [None if pair[0] is None else pair for pair in pairs]

    found = []
    for (path, branch, layer), pair in zip(
        layers, moved(tf.convert_to_tensor(images, tf.float32)), strict=True
    ):
        if pair is None:
            continue
        values = []
        for variable, assigned in zip(
            (layer.moving_mean, layer.moving_variance), pair, strict=True
        ):
            moving = variable.numpy().astype(np.float64)
            change = np.asarray(assigned, np.float64) - moving
            values.append(moving + change / (1 - layer.momentum))
        found.append(BatchStatistics(path, branch, *values))
    return found


def _layers(model):
    """(path, domain, batch normalization) of a model."""
    found = []
    for path, layer in layer_statistics.normalizations(model).items():
        if isinstance(layer, MixtureBatchNormalization):
            found += [(path, "adv", layer.adv), (path, "clean", layer.clean)]
        else:
            found.append((path, None, layer))
    return found
