"""The losses of adversarial training over one mini-batch."""

import tensorflow as tf


def mixture_loss(model, batch, outputs, clean_weight=None, pairing_weight=0.0):
    """The loss of Eq. 1, and of adversarial logit pairing on top of it.

    `loss = alpha * J(clean) + (1 - alpha) * J(adv) + w * mean((z_adv - z_clean)^2)`

    J is the model's own `compute_loss` on one part of the batch: the compiled loss (label
    smoothing included) and the penalties on weights. The pairs are the clean images and their
    adversarial counterparts.

    Args:
        model: A compiled Keras model.
        batch: A `tfadv.training.batches.Mixture`.
        outputs: Tensor, the model's outputs for it.
        clean_weight: Float, alpha. None weights by the counts, so that the loss is the mean over
            all images of the mini-batch: alpha = 1/2 at a clean ratio of 100% (Section 4.1).
        pairing_weight: Float, w.

    Returns:
        The loss, a scalar; and a dictionary of J by domain.
    """
    by_domain = {
        domain: model.compute_loss(
            x=batch.part(batch.images, domain),
            y=batch.part(batch.labels, domain),
            y_pred=batch.part(outputs, domain),
            sample_weight=batch.part(batch.weights, domain),
        )
        for domain in batch.parts
    }
    if len(batch.parts) == 1:
        return by_domain[batch.parts[0]], by_domain
    if clean_weight is None:
        clean = tf.cast(batch.num_clean, tf.float32)
        clean_weight = clean / (clean + tf.cast(batch.num_adversarial, tf.float32))
    loss = clean_weight * by_domain["clean"] + (1.0 - clean_weight) * by_domain["adv"]
    if pairing_weight:
        loss += pairing_weight * logit_pairing(batch, outputs)
    return loss, by_domain


def logit_pairing(batch, outputs):
    """Mean squared difference of the logits of clean images and their adversarial counterparts."""
    clean = tf.cast(batch.part(outputs, "clean"), tf.float32)
    adversarial = tf.cast(batch.part(outputs, "adv"), tf.float32)[: batch.num_clean]
    return tf.reduce_mean(tf.square(adversarial - clean))
