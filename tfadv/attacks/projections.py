"""The set an adversarial image may come from: a ball around the image, inside the pixel range."""

import tensorflow as tf


def scale_to_range(pixels, value_range):
    """Turns a length in pixels of 255 into the units of images in `value_range`.

    Args:
        pixels: Number, in pixels of 255.
        value_range: `(lowest, highest)` value of a pixel.

    Returns:
        float, `pixels * (highest - lowest) / 255`.
    """
    low, high = value_range
    return float(pixels) * (high - low) / 255.0


def linf_bounds(images, epsilon, value_range):
    """Lower and upper bound of every pixel: `max(x - eps, low)` and `min(x + eps, high)`.

    Args:
        images: Float32 tensor, in the units of `value_range`.
        epsilon: The radius, in pixels of 255.
        value_range: `(lowest, highest)` value of a pixel.

    Returns:
        Two float32 tensors in the shape of `images`.
    """
    low, high = value_range
    radius = scale_to_range(epsilon, value_range)
    images = tf.clip_by_value(images, low, high)  # by a rounding: 255 * (2 / 255) - 1 is above 1
    return tf.maximum(images - radius, low), tf.minimum(images + radius, high)


def project(images, bounds):
    """Clips every pixel into its bounds; the projection onto the L-infinity ball and the range."""
    return tf.clip_by_value(images, *bounds)
