"""Random starts and targets of attacks: stateless, with one key for a batch or one for each image.

A key is a pair of integers. `[2]` keys a whole batch (training: from seed, rank and step);
`[batch, 2]` keys every image separately (evaluation: seed and the image's index), so that an image
gets the same draws in every batch, at every position and on every worker. `[parts, 2]` keys equal
parts of the batch, one after the other, so that each part gets the draws that it has alone.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfadv.attacks import steps

# Odd 64-bit constants. TensorFlow scrambles a key before it uses it, so keys that differ in any
# bit are independent; callers' keys are small numbers or random ones, which these offsets do not
# turn into each other.
_RESTART = -0x61C8864680B583EB
_STREAMS = {
    "start": 0x0,
    "target": 0x2545F4914F6CDD1D,
    "clean": 0x5851F42D4C957F2D,
    "pattern": 0x14057B7EF767814F,
    "windows": 0x369DEA0F31A53F85,
}

_LEVELS = 2**24  # as many numbers as float32 distinguishes between 0 and 1


def random_noise(
    images: tf.Tensor, radius: float, seed: Any, start_from_clean: float = 0.0
) -> tf.Tensor:
    """Draws what a random start adds to the images: `U(-radius, radius)`.

    Args:
        images: Float32 `[batch, ...]`.
        radius: In the units of the images.
        seed: Integers, `[2]` for the batch, `[parts, 2]` or `[batch, 2]`, one key per image.
        start_from_clean: Probability of a start without noise. There is one draw for each key: for
            the whole batch ("20% of training batches", pipeline), each part, or each image.

    Returns:
        Noise, float32 in the shape of `images`.
    """
    shape, rank = images.shape[1:], images.shape.rank
    # Known sizes as numbers: an empty batch has no other source of them, nor has XLA.
    shape = shape.as_list() if shape.is_fully_defined() else tf.shape(images)[1:]
    levels = integers("start", seed, batch_of(images), shape, 0, _LEVELS)
    # Exact up to the one product, so the noise has the same bits however it is compiled.
    noise = tf.cast(levels - _LEVELS // 2, tf.float32) * (radius / (_LEVELS // 2))
    if start_from_clean > 0:
        levels = integers("clean", seed, [1], [1] * (rank - 1), 0, _LEVELS)
        each = _images_per_key(tf.convert_to_tensor(seed), batch_of(images))
        levels = levels if each is None else tf.repeat(levels, each, axis=0)
        noise = tf.where(levels < round(start_from_clean * _LEVELS), 0.0, noise)
    return tf.ensure_shape(noise, images.shape)


def random_direction(images: tf.Tensor, seed: Any, norm: str) -> tf.Tensor:
    """Draws a direction of norm 1 for each image, where an attack starts from its ball's surface.

    For `"linf"` uniform noise, divided by its largest absolute value; for `"l2"` normal noise,
    divided by its length.

    Args:
        images: Float32 `[batch, ...]`.
        seed: Integers, as in `random_noise`.
        norm: `"linf"` or `"l2"`.

    Returns:
        float32 in the shape of `images`.
    """
    noise = random_noise(images, 1.0, seed)
    if norm == "l2":
        # The centers of the levels: none of them is an end of the distribution.
        noise = tf.math.ndtri((noise + 1) / 2 + 0.5 / _LEVELS)
    return steps.unit(noise, norm)


def random_targets(labels: Any, num_classes: int, seed: Any) -> tf.Tensor:
    """Draws the target of each image uniformly over the wrong labels (pipeline).

    `(label + offset) mod num_classes`, the offset uniform over `1 .. num_classes - 1`: a target is
    never the true label. (The paper abridges this to "uniformly at random over the categories".)

    Args:
        labels: Integers `[batch]`.
        num_classes: Number of classes, at least 2.
        seed: Integers, `[2]` for the batch, `[parts, 2]` or `[batch, 2]`, one key per image, with
            which an image's target does not depend on the batch.

    Returns:
        Targets `[batch]` in the dtype of `labels`.

    Raises:
        ValueError: If there is no wrong label.
    """
    if num_classes < 2:
        raise ValueError(
            f"num_classes must be 2 or more to have a wrong label; received {num_classes}"
        )
    labels = tf.convert_to_tensor(labels)
    offsets = integers("target", seed, batch_of(labels), [], 1, num_classes)
    offsets = tf.ensure_shape(tf.cast(offsets, labels.dtype), labels.shape)
    return tf.math.floormod(labels + offsets, num_classes)


def fold_restart(seed: Any, restart: Any) -> tf.Tensor:
    """Returns the key of a restart by its number; that of restart 0 is the key itself."""
    seed = tf.cast(seed, tf.int64)
    # In 64 bits: hashed to 32, two of 50,000 images would share a key in one run of four.
    first = seed[..., 0] + tf.cast(restart, tf.int64) * tf.constant(_RESTART, tf.int64)
    return tf.stack([first, seed[..., 1]], axis=-1)


def batch_of(tensor: tf.Tensor) -> tf.Tensor | list[int]:
    """Returns the first dimension, `[batch]`: an integer if it is known, which XLA needs."""
    known = tensor.shape[0] is not None
    return [tensor.shape[0]] if known else tf.shape(tensor)[:1]


def _images_per_key(seed, batch):
    """The number of images in a part of the batch that has a key of its own, or None."""
    if seed.shape.rank < 2 or not isinstance(batch, list) or not seed.shape[0]:
        return None
    each = batch[0] // seed.shape[0]
    return each if each > 1 else None


def integers(
    stream: str,
    seed: Any,
    batch: tf.Tensor | Sequence[int],
    shape: tf.Tensor | Sequence[int],
    minval: int,
    maxval: int,
) -> tf.Tensor:
    """Draws uniform integers from `minval` to `maxval - 1` from one stream of the key.

    All draws are integers, since TensorFlow and XLA make different floats of the same random bits.

    Args:
        stream: A key of `_STREAMS`; the streams of one key are independent.
        seed: Integers, `[2]` for one draw of shape `[*batch, *shape]`, `[images, 2]` for a draw of
            `shape` per image, or `[parts, 2]` for one of `[images / parts, *shape]` per part.
        batch: First dimension, as `batch_of` returns it; or `[1]` for a single draw of each key.
        shape: Shape of one image's draw; Python integers where they are known.
        minval: Lowest integer.
        maxval: Integer above the highest one.

    Returns:
        int32 `[*batch, *shape]`, `[images, *shape]`, or `[keys, *shape]` if `batch` is `[1]`.
    """
    seed = tf.cast(seed, tf.int64)
    mark = tf.constant(_STREAMS[stream], tf.int64)
    seed = tf.stack([seed[..., 0], tf.bitwise.bitwise_xor(seed[..., 1], mark)], axis=-1)
    each = _images_per_key(seed, batch)
    if each is not None:
        known = isinstance(shape, list)
        part = [each, *shape] if known else tf.concat([[each], tf.cast(shape, tf.int32)], 0)
        drawn = _draw_each(seed, part, tf.constant(minval), tf.constant(maxval))
        return tf.reshape(drawn, [*batch, *shape] if known else tf.concat([batch, part[1:]], 0))
    if seed.shape.rank == 2:
        return _draw_each(seed, shape, tf.constant(minval), tf.constant(maxval))
    shape = tf.concat([tf.cast(batch, tf.int32), tf.cast(shape, tf.int32)], 0)
    return _draw(seed, shape, minval, maxval)


def _draw(key, shape, minval, maxval):
    # philox by name: the default algorithm gives other bits under XLA and on other devices.
    return tf.random.stateless_uniform(shape, key, minval, maxval, tf.int32, alg="philox")


@tf.function(autograph=False, reduce_retracing=True)  # eagerly, map_fn takes 5 ms an image
def _draw_each(keys, shape, minval, maxval):
    return tf.map_fn(
        lambda key: _draw(key, shape, minval, maxval), keys, fn_output_signature=tf.int32
    )
