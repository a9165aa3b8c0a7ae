"""Convolutions whose gradient to their inputs is made as a convolution is."""

import keras
import tensorflow as tf


def turns(layer):
    """Whether `turned` computes what a layer does, and is worth it: on CPUs, with stride 1.

    There TensorFlow's own gradient takes up to three times as long as the convolution itself,
    without oneDNN; GPUs have kernels for either.
    """
    return (
        type(layer) is keras.layers.Conv2D  # a subclass may compute anything
        and layer.data_format == "channels_last"
        and {*layer.strides, *layer.dilation_rate, layer.groups} == {1}
        and not tf.config.list_logical_devices("GPU")
    )


def turned(kernel, padding):
    """A 2D convolution with stride 1 for a kernel that stands still.

    With `y = x * K`, `dL/dx = dL/dy * K'` for `K'[i, j, a, b] = K[h - 1 - i, w - 1 - j, b, a]`,
    which is computed now, once for all calls.

    Args:
        kernel: Tensor `[height, width, channels, filters]`.
        padding: `"same"` or `"valid"`.

    Returns:
        A function of inputs `[batch, height, width, channels]`, with first derivatives.
    """
    forward = padding.upper()
    # Each side gets what it lacked of `size - 1`.
    sides = []
    for size in kernel.shape[:2]:
        missing = size - 1 if padding == "same" else 0
        sides.append([size - 1 - missing // 2, size - 1 - (missing - missing // 2)])
    backward = [[0, 0], *sides, [0, 0]]
    if padding == "same" and all(first == last for first, last in sides):
        backward = "SAME"
    back = tf.stop_gradient(tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2]))

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            # In a graph it costs nothing where nobody asks for the kernel's.
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=inputs,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=[1] * 4,
                padding=forward,
            )
            return tf.nn.conv2d(upstream, back, 1, backward), of_kernel

        return tf.nn.conv2d(inputs, kernel, 1, forward), gradient

    return lambda inputs: convolve(inputs, kernel)
