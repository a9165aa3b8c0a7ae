"""Where an attack starts."""

import tensorflow as tf

from tfadv.attacks import keys

_LEVELS = 2**24  # what float32 tells apart between 0 and 1


def random_noise(images, radius, seed, start_from_clean):
    """What the start adds to the images: `U(-radius, radius)`, or nothing for a clean start.

    Args:
        images: Float32 `[batch, ...]`.
        radius: In the units of the images.
        seed: Integers, `[2]` for the batch or `[batch, 2]`, one key per image.
        start_from_clean: Probability of a clean start: of the whole batch, in one draw, where it
            has one key ("20% of training batches", pipeline); of each image where it has its own.

    Returns:
        Noise, float32 in the shape of `images`.
    """
    shape, rank = images.shape[1:], images.shape.rank
    # Known sizes as numbers: an empty batch has no other source of them, nor has XLA.
    shape = shape.as_list() if shape.is_fully_defined() else tf.shape(images)[1:]
    drawn = keys.integers("start", seed, tf.shape(images)[:1], shape, 0, _LEVELS)
    # Exact up to the one product, so the noise has the same bits however it is compiled.
    noise = tf.cast(drawn - _LEVELS // 2, tf.float32) * (radius / (_LEVELS // 2))
    if start_from_clean > 0:
        drawn = keys.integers("clean", seed, [1], [1] * (rank - 1), 0, _LEVELS)
        noise = tf.where(drawn < round(start_from_clean * _LEVELS), 0.0, noise)
    return tf.ensure_shape(noise, images.shape)
