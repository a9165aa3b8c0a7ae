"""Which class a targeted attack aims at."""

import tensorflow as tf

from tfadv.attacks import keys


def random_targets(labels, num_classes, seed):
    """Draws a target uniformly over the wrong labels (pipeline).

    `(label + offset) mod num_classes`, the offset uniform over `1 .. num_classes - 1`: a target is
    never the true label. (The paper abridges this to "uniformly at random over the categories".)

    Args:
        labels: Integers `[batch]`.
        num_classes: Number, at least 2.
        seed: Integers, `[2]` for the batch or `[batch, 2]`, one key per image, in which case an
            image's target does not depend on the batch it is in.

    Returns:
        Targets `[batch]` in the dtype of `labels`.

    Raises:
        ValueError: if there is no wrong label.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be 2 or more to have a wrong label; got {num_classes}")
    labels = tf.convert_to_tensor(labels)
    offsets = keys.integers("target", seed, tf.shape(labels), [], 1, num_classes)
    offsets = tf.ensure_shape(tf.cast(offsets, labels.dtype), labels.shape)
    return tf.math.floormod(labels + offsets, num_classes)
