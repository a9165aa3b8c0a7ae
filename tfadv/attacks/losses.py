"""What an attack optimizes: one number per image, of its logits and one class."""

import tensorflow as tf


def cross_entropy(logits, classes):
    """Cross entropy to one class per image, without label smoothing (pipeline).

    `-log softmax(z)_k` for class `k`: a targeted attack minimizes it to the target, an untargeted
    one maximizes it to the label.

    Args:
        logits: Float32 `[batch, classes]`.
        classes: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)


def margin(logits, classes):
    """How far the best other class is above the given one.

    `max_{j != k} z_j - z_k` for class `k`: a targeted attack minimizes it to the target, an
    untargeted one maximizes it to the label. Unlike cross entropy it does not saturate: its
    gradient to the logits is 1 and -1 however confident the model is. It is beyond the paper.

    Args:
        logits: Float32 `[batch, classes]`, at least two classes.
        classes: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    given = tf.one_hot(classes, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.reduce_max(tf.where(given, logits.dtype.min, logits), axis=-1)
    return others - tf.reduce_sum(tf.where(given, logits, 0.0), axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin}
