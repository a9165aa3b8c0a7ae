"""The attack knows what it is given: checks of its input, in one line each.

Eagerly a check raises ValueError. In a graph it is a `tf.debugging.Assert` with the same line,
which raises InvalidArgumentError when the graph runs; XLA drops assertions, so these are placed
outside of what the attack compiles.
"""

import contextlib
import re

import tensorflow as tf

from tfadv.arguments import warn_once

# So many outputs lie between 0 and 1 by chance in no network.
MANY = 32

_asserted: set[str] = set()  # the messages of assertions in graphs


def require(condition, message, *values):
    """Raises `message` followed by `values` unless `condition` holds (now, or in the graph).

    Returns:
        The operations that the graph must run first; an empty list eagerly.
    """
    if tf.executing_eagerly():
        if not bool(condition):
            raise ValueError(" ".join([message, *(f"{value.numpy():g}" for value in values)]))
        return []
    _asserted.add(message)
    # TensorFlow's error begins with the name of the operation, and has our line at its end.
    name = re.sub(r"\W+", "_", message.partition(";")[0]).strip("_")
    return [tf.debugging.Assert(condition, [message, *values], name=name)]


@contextlib.contextmanager
def one_line():
    """Raises what these checks find in a graph as they raise it eagerly: ValueError, in one line.

    TensorFlow's error begins with a page on where the graph was made.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # The rest of the line are the values, each in brackets.
        for message, values in re.findall(
            r"assertion failed: \[(.*?)\]((?: \[.*?\])*)", str(error)
        ):
            if message in _asserted:
                numbers = (f"{float(value):g}" for value in re.findall(r"\[(.*?)\]", values))
                raise ValueError(" ".join([message, *numbers])) from None
        raise


def value_range(limits):
    """`(lowest, highest)` as two floats, or ValueError."""
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high < float("inf") or low == -float("inf"):
        raise ValueError(f"value_range must be (lowest, highest) pixel value; received {limits!r}")
    return low, high


def images(batch, limits):
    """The operations that hold images to their range; a thousandth of a pixel of 255 is let pass.

    That much is rounding: 255 * (2 / 255) - 1 is above 1 in float32.
    """
    low, high = limits
    slack = (high - low) * 1e-3 / 255
    inside = tf.reduce_all((batch >= low - slack) & (batch <= high + slack))  # NaN is not inside
    lowest, highest = tf.reduce_min(batch), tf.reduce_max(batch)
    done = require(
        inside,
        f"images must lie inside value_range=({low:g}, {high:g}); their minimum and maximum are",
        lowest,
        highest,
    )
    if tf.executing_eagerly():
        warn_of_range(float(lowest), float(highest), limits)
    return done


def warn_of_range(lowest, highest, limits):
    """Warns once of images that look scaled to another range than the one that was given.

    Args:
        lowest, highest: Least and greatest value of a pixel in some images.
        limits: The range that was given.
    """
    low, high = limits
    # Black images, which are 0 in any range, say nothing.
    if -1 <= lowest and 0 < highest <= 1 and high - low >= 128:
        meant = (0, 1) if lowest >= 0 else (-1, 1)
    # Images from 0 to 1 have black pixels, which in -1 to 1 would be a gray that nothing is below.
    elif lowest == 0 and 0 < highest <= 1 and (low, high) == (-1, 1):
        meant = (0, 1)
    else:
        return
    warn_once(
        "value_range",
        f"images lie between {lowest:.4g} and {highest:.4g}, but value_range=({low:g}, {high:g}): "
        f"epsilon and step size are scaled to that range (give value_range={meant} if that is what "
        "the images are scaled to)",
    )


def classes(name, values, num_classes):
    """The operations that hold labels or targets to `0 .. num_classes - 1`."""
    return require(
        tf.reduce_all((values >= 0) & (values < num_classes)),
        f"{name} must lie between 0 and {num_classes - 1}; their minimum and maximum are",
        tf.reduce_min(values),
        tf.reduce_max(values),
    )


def batch(images, seed=None):
    """Images as float32 `[batch, ...]` and a key of shape `[2]` or `[batch, 2]`, as tensors."""
    images = tf.convert_to_tensor(images)
    if (images.shape.rank or 0) < 2 or not (images.dtype.is_floating or images.dtype.is_integer):
        raise ValueError(
            f"images must be numbers [batch, ...]; received {images.dtype.name} of shape "
            f"{images.shape}"
        )
    images = tf.cast(images, tf.float32)
    if seed is None:
        return images, None
    seed = tf.convert_to_tensor(seed)
    size = images.shape[0]
    fits = seed.shape.is_compatible_with([2]) or seed.shape.is_compatible_with([size, 2])
    if seed.shape.rank is None or not fits or seed.dtype not in (tf.int32, tf.int64):
        raise ValueError(
            "seed must be int32 or int64 of shape [2] or [batch, 2]; "
            f"received {seed.dtype.name} of shape {seed.shape} for {size} images"
        )
    return images, seed


def sparse(name, labels, images):
    """Labels as integers `[batch]`, from integers `[batch]` or `[batch, 1]`, or from one-hot rows.

    Returns:
        The integers, and the number of classes if the labels were one-hot, else None.
    """
    labels = tf.convert_to_tensor(labels)
    num_classes = None
    if labels.shape.rank == 2 and labels.shape[-1] == 1:
        labels = labels[:, 0]
    elif labels.shape.rank == 2:
        num_classes = labels.shape[-1]
        labels = tf.argmax(labels, axis=-1, output_type=tf.int32)
    if labels.shape.rank != 1 or not labels.dtype.is_integer:
        raise ValueError(
            f"{name} must be integers [batch] or one-hot [batch, classes]; "
            f"received {labels.dtype.name} of shape {labels.shape}"
        )
    if not labels.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(
            f"{name} must be one per image; received {labels.shape[0]} for {images.shape[0]} images"
        )
    # Signed and wide enough for label + offset in the arithmetic of the targets.
    return (labels if labels.dtype == tf.int64 else tf.cast(labels, tf.int32)), num_classes


def logits(outputs, images, num_classes=None):
    """Logits as float32 after the static checks, and what they look like.

    Returns:
        The logits, and a boolean `[2]`: whether every row looks like probabilities, and whether all
        of them lie in [0, 1], which hardly any logits do.
    """
    outputs = tf.convert_to_tensor(outputs)
    if outputs.shape.rank != 2 or not outputs.dtype.is_floating:
        raise ValueError(
            "logits_fn must return floating-point logits [batch, classes]; "
            f"received {outputs.dtype.name} of shape {outputs.shape}"
        )
    if outputs.shape[-1] == 1:
        raise ValueError(
            "logits_fn must return logits [batch, classes] of at least two classes; received shape "
            f"{outputs.shape} (of a binary classifier's one logit z: tf.concat([0 * z, z], -1))"
        )
    expected = tf.TensorShape([images.shape[0], num_classes])
    if not outputs.shape.is_compatible_with(expected):
        raise ValueError(
            f"logits_fn must return logits of shape {expected}; received {outputs.shape}"
        )
    # Sixteen bits round every probability, and so their sum, by up to 2 in a thousand.
    tolerance = 1e-3 if outputs.dtype.size >= 4 else 1e-2
    outputs = tf.cast(outputs, tf.float32)
    off = tf.abs(tf.reduce_sum(outputs, axis=-1) - 1.0)
    positive = tf.reduce_all(outputs >= 0)
    # All equal are those of a last layer that begins at zero; and few may lie there by chance.
    varied = (tf.size(outputs) >= MANY) & (tf.reduce_max(outputs) > tf.reduce_min(outputs))
    bounded = positive & tf.reduce_all(outputs <= 1) & varied
    return outputs, tf.stack([positive & tf.reduce_all(off <= tolerance), bounded])


def warn_of_bounded():
    """Warns once of outputs that all lie between 0 and 1."""
    warn_once(
        "bounded outputs",
        "logits_fn must return logits, but all that it returned lie between 0 and 1, as those of a "
        "sigmoid, through which an attack is misled (remove the last activation of the model)",
    )


def outcome(looks, finite):
    """Raises, or warns, for what only the model's answers during the attack can show."""
    probabilities, bounded = tf.unstack(looks)
    if tf.executing_eagerly() and bool(bounded & ~probabilities):
        warn_of_bounded()
    done = require(
        ~probabilities,
        "logits_fn must return logits; it returned probabilities (every row is non-negative and "
        "sums to 1): remove the final softmax, or sigmoid, of the model",
    )
    return done + require(
        finite,
        "the gradient of the loss to the images is NaN: weights, activations or logits are "
        "not finite, or overflowed their dtype",
    )
