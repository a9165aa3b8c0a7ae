"""Checks of an attack's input: images, labels, logits and gradients.

Eagerly a check raises ValueError, in one line. In a graph it is a `tf.debugging.Assert` with the
same line, which raises InvalidArgumentError when the graph runs; XLA drops assertions, so they
stand outside of the part of an attack that it compiles.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfadv.arguments import warn_once

# In no network do this many outputs lie between 0 and 1 by chance.
MANY = 32

_asserted: set[str] = set()  # the messages of assertions in graphs


def require(condition: tf.Tensor, message: str, *values: tf.Tensor) -> list:
    """Raises `message` followed by `values` unless `condition` holds, now or in the graph.

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
def one_line() -> Iterator[None]:
    """Raises errors of these checks in a graph as they raise them eagerly: ValueError, in one line.

    TensorFlow's own error begins with a page on where the graph was made.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # After the message come the values, each in brackets.
        for message, values in re.findall(
            r"assertion failed: \[(.*?)\]((?: \[.*?\])*)", str(error)
        ):
            if message in _asserted:
                numbers = (f"{float(value):g}" for value in re.findall(r"\[(.*?)\]", values))
                raise ValueError(" ".join([message, *numbers])) from None
        raise


def value_range(limits: Iterable[float]) -> tuple[float, float]:
    """Returns `(lowest, highest)` as two floats; raises ValueError if they are no range."""
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high < float("inf") or low == -float("inf"):
        raise ValueError(f"value_range must be (lowest, highest) pixel value; received {limits!r}")
    return low, high


def images(batch: tf.Tensor, limits: tuple[float, float]) -> list:
    """Requires images to lie in their range, up to a thousandth of a pixel of 255.

    That much is rounding: 255 * (2 / 255) - 1 is above 1 in float32.

    Returns:
        As `require`.
    """
    low, high = limits
    slack = (high - low) * 1e-3 / 255
    inside = tf.reduce_all((batch >= low - slack) & (batch <= high + slack))  # NaN is not inside
    lowest, highest = tf.reduce_min(batch), tf.reduce_max(batch)
    assertions = require(
        inside,
        f"images must lie inside value_range=({low:g}, {high:g}); their minimum and maximum are",
        lowest,
        highest,
    )
    if tf.executing_eagerly():
        warn_of_range(float(lowest), float(highest), limits)
    return assertions


def warn_of_range(lowest: float, highest: float, limits: tuple[float, float]) -> None:
    """Warns once of images that look scaled to another range than the given one.

    Args:
        lowest, highest: Lowest and highest value of a pixel in some images.
        limits: The given range.
    """
    low, high = limits
    # Black images, which are 0 in any range, do not show their range.
    if -1 <= lowest and 0 < highest <= 1 and high - low >= 128:
        meant = (0, 1) if lowest >= 0 else (-1, 1)
    # Images from 0 to 1 have black pixels; from -1 to 1 these would be gray, with nothing darker.
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


def classes(name: str, values: tf.Tensor, num_classes: int) -> list:
    """Requires labels or targets to lie in `0 .. num_classes - 1`; returns as `require`."""
    return require(
        tf.reduce_all((values >= 0) & (values < num_classes)),
        f"{name} must lie between 0 and {num_classes - 1}; their minimum and maximum are",
        tf.reduce_min(values),
        tf.reduce_max(values),
    )


def batch(images: Any, seed: Any = None) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns float32 images `[batch, ...]` and a key `[2]`, `[parts, 2]` or `[batch, 2]`."""
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
    if size and not fits and seed.shape.is_compatible_with([None, 2]):
        fits = seed.shape[0] > 0 and size % seed.shape[0] == 0
    if seed.shape.rank is None or not fits or seed.dtype not in (tf.int32, tf.int64):
        raise ValueError(
            "seed must be int32 or int64 of shape [2] or [batch, 2], or [parts, 2] for equal parts "
            "of the batch; "
            f"received {seed.dtype.name} of shape {seed.shape} for {size} images"
        )
    return images, seed


def sparse(name: str, labels: Any, images: tf.Tensor) -> tuple[tf.Tensor, int | None]:
    """Converts labels, which are integers `[batch]` or `[batch, 1]` or one-hot rows, to integers.

    Returns:
        Integers `[batch]`, and the number of classes if the labels were one-hot, else None.
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


def logits(
    outputs: Any, images: tf.Tensor, num_classes: int | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks the shape of logits, and looks for probabilities among them.

    Returns:
        The logits as float32, and a boolean `[2]`: whether every row looks like probabilities, and
        whether all of them lie in [0, 1], which hardly any logits do.
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
    # A last layer that begins at zero gives equal logits; and a few may lie there by chance.
    varied = (tf.size(outputs) >= MANY) & (tf.reduce_max(outputs) > tf.reduce_min(outputs))
    bounded = positive & tf.reduce_all(outputs <= 1) & varied
    return outputs, tf.stack([positive & tf.reduce_all(off <= tolerance), bounded])


def warn_of_bounded() -> None:
    """Warns once of outputs that all lie between 0 and 1."""
    warn_once(
        "bounded outputs",
        "logits_fn must return logits, but all that it returned lie between 0 and 1, as those of a "
        "sigmoid, through which an attack is misled (remove the last activation of the model)",
    )


def outcome(looks: tf.Tensor, finite: tf.Tensor, subject: str) -> list:
    """Raises errors and warnings that need the logits and gradients of an attack.

    Args:
        looks: Boolean `[2]`, what all logits of the attack looked like (`logits`).
        finite: Scalar boolean.
        subject: What is NaN if `finite` is false.

    Returns:
        As `require`.
    """
    probabilities, bounded = tf.unstack(looks)
    if tf.executing_eagerly() and bool(bounded & ~probabilities):
        warn_of_bounded()
    assertions = require(
        ~probabilities,
        "logits_fn must return logits; it returned probabilities (every row is non-negative and "
        "sums to 1): remove the final softmax, or sigmoid, of the model",
    )
    return assertions + require(
        finite,
        f"{subject} is NaN: weights, activations or logits are not finite, or overflowed their "
        "dtype",
    )
