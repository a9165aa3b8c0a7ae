"""The losses of adversarial training over one mini-batch."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from tfadv.training.batches import Mixture


def mixture_loss(
    model: keras.Model,
    batch: Mixture,
    outputs: Any,
    clean_weight: float | None = None,
    pairing_weight: float = 0.0,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of Eq. 1, plus that of adversarial logit pairing.

    `loss = alpha * J(clean) + (1 - alpha) * J(adv) + w * mean((z_adv - z_clean)^2)`

    J is the model's own `compute_loss` on one part of the batch: the compiled loss (label
    smoothing included) and the penalties on weights. The pairs are the clean images and their
    adversarial counterparts.

    Args:
        model: A compiled Keras model.
        batch: The mini-batch.
        outputs: The model's outputs for it.
        clean_weight: Float, alpha. None weights by the counts, so that the loss is the mean over
            all images of the mini-batch: alpha = 1/2 at a clean ratio of 100% (Section 4.1).
        pairing_weight: Float, w.

    Returns:
        The loss, a scalar; and J by domain. They are float32, or float64 if the model's own are.
    """
    # As Keras calls it: a user's own may name its arguments otherwise, and lack `training`.
    takes_training = "training" in inspect.signature(model.compute_loss).parameters
    options = {"training": True} if takes_training else {}
    by_domain = {
        domain: _at_least_float32(
            model.compute_loss(
                batch.part(batch.images, domain),
                batch.part(batch.labels, domain),
                batch.part(outputs, domain),
                batch.part(batch.weights, domain),
                **options,
            )
        )
        for domain in batch.parts
    }
    if len(batch.parts) == 1:
        return by_domain[batch.parts[0]], by_domain
    if clean_weight is None:
        dtype = by_domain["clean"].dtype
        clean = tf.cast(batch.num_clean, dtype)
        clean_weight = clean / (clean + tf.cast(batch.num_adversarial, dtype))
    loss = clean_weight * by_domain["clean"] + (1.0 - clean_weight) * by_domain["adv"]
    if pairing_weight:
        pairs = logit_pairing(batch, tf.nest.flatten(outputs)[0])
        loss += pairing_weight * tf.cast(pairs, loss.dtype)
    return loss, by_domain


def _at_least_float32(tensor):
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor  # 16 bits are few


def logit_pairing(batch: Mixture, outputs: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of the logits of clean images and their adversarial counterparts."""
    clean = tf.cast(batch.part(outputs, "clean"), tf.float32)
    adversarial = tf.cast(batch.part(outputs, "adv"), tf.float32)[: batch.num_clean]
    return tf.reduce_mean(tf.square(adversarial - clean))
