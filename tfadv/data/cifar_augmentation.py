"""The usual augmentation of CIFAR's images: a shift by up to four pixels and a mirror."""

import tensorflow as tf

PADDING = 4


def augment(images, key):
    """Random crops of the images padded by four zero pixels a side, half of them mirrored.

    Args:
        images: uint8 [batch, height, width, channels].
        key: int64 [2]; each image of the batch has its own draws.

    Returns:
        uint8 of the same shape.
    """
    batch, height, width = images.shape[:3]
    draws = tf.random.stateless_uniform(
        [batch, 2], key, maxval=2 * PADDING + 1, dtype=tf.int32, alg="philox"
    )
    flips = tf.random.stateless_uniform(
        [batch], tf.random.fold_in(key, tf.constant(1, key.dtype), alg="philox"), alg="philox"
    )
    sides = [PADDING, PADDING]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    rows = draws[:, :1] + tf.range(height)
    columns = draws[:, 1:] + tf.range(width)
    # To mirror an image is to read its columns backwards.
    columns = tf.where(flips[:, None] < 0.5, columns, columns[:, ::-1])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    cropped = tf.gather(cropped, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)
