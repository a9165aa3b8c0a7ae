"""The layers of a network whose weights stand still, made ready for many calls."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfadv import keras_internals, layers
from tfadv.layers import scope


def folded(part: keras.Function, domain: str, dtype: str | None) -> dict[int, Callable]:
    """Folds each batch normalization of a functional model into the layer that it alone follows.

    `scale * (W x + c - mean) + beta = (scale W) x + (beta + scale * (c - mean))`, with
    `scale = gamma / sqrt(variance + epsilon)` and the moving mean and variance.

    Args:
        part: A functional Keras model. The models in its graph are folded by themselves.
        domain: `"adv"` or `"clean"`, the branch of mixtures.
        dtype: What the folded layers compute in; None for each layer's own.

    Returns:
        Functions by the `id` of the operation that they stand for: convolutions, depthwise
        convolutions and dense layers with their new weights, which are computed now from the
        variables as they are; and an identity for each normalization that was folded into one.
    """
    substitutes = {}
    for node, normalization in _pairs(part):
        layer, norm = node.operation, _branch(normalization.operation, domain)
        scale, offset = affine(norm)
        kernel = ops.cast(layer.kernel, scale.dtype)
        if isinstance(layer, _DEPTHWISE):  # output channel = input channel * multiplier + which
            kernel = kernel * ops.reshape(scale, kernel.shape[-2:])
        else:
            kernel = kernel * scale
        if layer.use_bias:
            offset = offset + ops.cast(layer.bias, scale.dtype) * scale
        compute = dtype or layer.compute_dtype
        substitutes[id(layer)] = _apply(layer, ops.cast(kernel, compute), ops.cast(offset, compute))
        substitutes[id(normalization.operation)] = _noted(normalization.operation, _identity)
    return substitutes


def unfolded(
    part: keras.Function, domain: str, dtype: str | None, without: Collection[int]
) -> dict[int, Callable]:
    """Prepares the layers with weights that were not folded for another dtype or a faster gradient.

    Args:
        part, domain, dtype: As in `folded`.
        without: The `id`s of operations to leave as they are.

    Returns:
        As `folded` does: convolutions and dense layers with their weights cast once, and batch
        normalization as one product and one sum. Without a dtype, only the convolutions that
        `has_fast_gradient`.
    """
    substitutes = {}
    for node in keras_internals.nodes(part):
        layer = node.operation
        if id(layer) in without:
            continue
        if dtype is None and not has_fast_gradient(layer):
            continue
        if _is_batch_norm(layer):
            norm = _branch(layer, domain)
            rank, axis = len(node.outputs[0].shape), norm.axis % len(node.outputs[0].shape)
            shape = [-1 if i == axis else 1 for i in range(rank)]
            scale, offset = (ops.cast(ops.reshape(x, shape), dtype) for x in affine(norm))
            substitutes[id(layer)] = _noted(layer, _affine(scale, offset, dtype))
        elif _is_linear(layer):
            compute = dtype or layer.compute_dtype
            bias = ops.cast(layer.bias, compute) if layer.use_bias else None
            activated = _apply(layer, ops.cast(layer.kernel, compute), bias)
            substitutes[id(layer)] = _then(activated, layer.activation)
    return substitutes


def affine(norm: keras.layers.BatchNormalization) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and offset, `[channels]`, that batch normalization is at inference."""
    scale = tf.math.rsqrt(norm.moving_variance.value + norm.epsilon)
    if norm.scale:
        scale = scale * ops.cast(norm.gamma, scale.dtype)
    offset = -norm.moving_mean.value * scale
    if norm.center:
        offset = offset + ops.cast(norm.beta, scale.dtype)
    return scale, offset


# By their exact types: a subclass may compute anything.
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    layers.GroupedConv2D,
    keras.layers.Dense,
    *_DEPTHWISE,
)
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    layers.BatchNormalization,
    layers.MixtureBatchNormalization,
)


def _pairs(part) -> Iterator[tuple[Any, Any]]:
    """Yields the node of a linear layer and that of the batch normalization that alone follows."""
    nodes = keras_internals.nodes(part)
    calls: dict[int, int] = {}
    uses: dict[int, Any] = {id(tensor): None for tensor in part.outputs}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            uses[id(tensor)] = node if id(tensor) not in uses else None
    for node in nodes:
        layer, after = node.operation, uses.get(id(node.outputs[0]))
        if after is None or not _is_linear(layer) or not _is_batch_norm(after.operation):
            continue
        # Elsewhere the same layer may be followed by something else.
        once = calls[id(layer)] == calls[id(after.operation)] == 1
        if once and layer.activation is keras.activations.linear and _same_axis(layer, after):
            yield node, after


def _is_linear(layer):
    if type(layer) not in _LINEAR or getattr(layer, "padding", None) == "causal":
        return False
    return not layer.quantization_mode if hasattr(layer, "quantization_mode") else True


def _is_batch_norm(layer):
    return type(layer) in _NORMALIZATIONS


def _same_axis(layer, after):
    rank = len(after.outputs[0].shape)
    axis = _branch(after.operation, "adv").axis
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return axis % rank == (1 if first else rank - 1)


def _branch(layer, domain):
    if isinstance(layer, layers.MixtureBatchNormalization):
        return layer.adv if domain == "adv" else layer.clean
    return layer


def _apply(layer, kernel, bias):
    """Returns a function that applies a layer with other weights and without its activation."""
    data_format = getattr(layer, "data_format", None) or "channels_last"
    layout = "NC..." if data_format == "channels_first" else "N...C"
    fast = None
    if has_fast_gradient(layer):
        fast = convolution_with_fast_gradient(kernel, layer.padding)

    def call(inputs, **_):
        inputs = ops.cast(inputs, kernel.dtype)
        if fast is not None:
            outputs = fast(inputs)
        elif isinstance(layer, keras.layers.Dense):
            outputs = ops.matmul(inputs, kernel)
        elif isinstance(layer, _DEPTHWISE):
            outputs = ops.depthwise_conv(
                inputs,
                kernel,
                strides=layer.strides,
                padding=layer.padding,
                dilation_rate=layer.dilation_rate,
                data_format=data_format,
            )
        else:
            outputs = layer.convolution_op(inputs, kernel)
        return outputs if bias is None else tf.nn.bias_add(outputs, bias, layout)

    return call


def _affine(scale, offset, dtype):
    return lambda inputs, **_: ops.cast(inputs, dtype) * scale + offset


def _then(call, activation):
    return lambda inputs, **_: activation(call(inputs))


def _identity(inputs, **_):
    return inputs


def _noted(layer, call):
    """Makes a function that stands for a mixture say that it obeyed the scope, as the layer would.

    Other layers need none of it.
    """
    if not isinstance(layer, layers.MixtureBatchNormalization):
        return call

    def noted(inputs, **options):
        scope.current().seen.add(id(layer))
        return call(inputs, **options)

    return noted


def has_fast_gradient(layer: Any) -> bool:
    """Returns whether `convolution_with_fast_gradient` computes what a layer does, only faster.

    It does on CPUs, for stride 1. There TensorFlow's own gradient takes up to three times as long
    as the convolution itself, without oneDNN; GPUs have kernels for either.
    """
    return (
        type(layer) is keras.layers.Conv2D  # a subclass may compute anything
        and layer.data_format == "channels_last"
        and {*layer.strides, *layer.dilation_rate, layer.groups} == {1}
        and not tf.config.list_logical_devices("GPU")
    )


def convolution_with_fast_gradient(kernel: tf.Tensor, padding: str) -> Callable:
    """Makes a 2D convolution with stride 1 whose gradient to its inputs is a convolution too.

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
    backward: Any = [[0, 0], *sides, [0, 0]]
    if padding == "same" and all(first == last for first, last in sides):
        backward = "SAME"
    back = tf.stop_gradient(tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2]))

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            # In a graph it costs nothing where nobody asks for the kernel's.
            to_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=inputs,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=[1] * 4,
                padding=forward,
            )
            return tf.nn.conv2d(upstream, back, 1, backward), to_kernel

        return tf.nn.conv2d(inputs, kernel, 1, forward), gradient

    return lambda inputs: convolve(inputs, kernel)
