"""Stateless random draws for a batch, keyed once for all its images or once for each.

A key is a pair of integers. `[2]` keys a whole batch (training: from seed, rank and step); `[batch,
2]` keys every image by itself (evaluation: seed and the image's index), so that an image gets the
same draw in whatever batch, position or worker it is met.
"""

import tensorflow as tf

# Odd 64-bit constants. TensorFlow scrambles a key before it uses it, so keys that differ in any
# bit are independent; callers' keys are small numbers or random ones, which these offsets do not
# turn into each other.
_RESTART = -0x61C8864680B583EB
_STREAMS = {"start": 0x0, "target": 0x2545F4914F6CDD1D, "clean": 0x5851F42D4C957F2D}


def fold_restart(seed, restart):
    """The key of restart number `restart` (0 is the key itself)."""
    seed = tf.cast(seed, tf.int64)
    # In 64 bits: hashed to 32, two of 50,000 images would share a key in one run of four.
    first = seed[..., 0] + tf.cast(restart, tf.int64) * tf.constant(_RESTART, tf.int64)
    return tf.stack([first, seed[..., 1]], axis=-1)


def integers(stream, seed, batch, shape, minval, maxval):
    """Uniform integers `minval .. maxval - 1`, from one stream of the key.

    Integers alone, since TensorFlow and XLA make other floats of the same random bits.

    Args:
        stream: `"start"`, `"target"` or `"clean"`; the streams of one key are independent.
        seed: Integers, `[2]` for one draw of shape `[*batch, *shape]`, or `[images, 2]` for a draw
            of `shape` per image.
        batch: What a `[2]` key draws beyond `shape`: `[images]`, or `[1]` for a single draw.
        shape: Of one image's draw; Python integers where they are known.
        minval: The least value.
        maxval: The bound above.

    Returns:
        int32 `[*batch, *shape]` or `[images, *shape]`.
    """
    seed = tf.cast(seed, tf.int64)
    mark = tf.constant(_STREAMS[stream], tf.int64)
    seed = tf.stack([seed[..., 0], tf.bitwise.bitwise_xor(seed[..., 1], mark)], axis=-1)
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
