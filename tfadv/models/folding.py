"""Batch normalization at inference, folded into the layer before it."""

import keras
import tensorflow as tf
from keras import ops

from tfadv import layers
from tfadv.models import graphs, turned_convolution


def folded(part, domain, dtype):
    """Folds each batch normalization of a functional model into the layer that it alone follows.

    `scale * (W x + c - mean) + beta = (scale W) x + (beta + scale * (c - mean))`, with
    `scale = gamma / sqrt(variance + epsilon)` and the moving mean and variance: an attack's network
    stands still, so this is the same network with fewer operations.

    Args:
        part: A functional Keras model. Nested ones are folded by themselves.
        domain: `"adv"` or `"clean"`, the branch of mixtures.
        dtype: What the folded layers compute in; None for each layer's own.

    Returns:
        A dictionary of functions by the `id` of the operation that they stand for: convolutions,
        depthwise convolutions and dense layers, with their new weights, computed now, from the
        variables as they are; and an identity for each normalization that they took in.
    """
    found = {}
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
        found[id(layer)] = _apply(layer, ops.cast(kernel, compute), ops.cast(offset, compute))
        found[id(normalization.operation)] = _identity
    return found


def unfolded(part, domain, dtype, without):
    """The layers with weights that were not folded, computed in another dtype or another way.

    Args:
        part, domain, dtype: As of `folded`.
        without: The `id`s of operations that are left out.

    Returns:
        As of `folded`: convolutions and dense layers with their weights cast once, and batch
        normalization as one product and one sum; without a dtype, convolutions that turn alone.
    """
    found = {}
    for node in graphs.nodes(part):
        layer = node.operation
        if id(layer) in without:
            continue
        if dtype is None and not turned_convolution.turns(layer):
            continue
        if _is_batch_norm(layer):
            norm = _branch(layer, domain)
            rank, axis = len(node.outputs[0].shape), norm.axis % len(node.outputs[0].shape)
            shape = [-1 if i == axis else 1 for i in range(rank)]
            scale, offset = (ops.cast(ops.reshape(x, shape), dtype) for x in affine(norm))
            found[id(layer)] = _affine(scale, offset, dtype)
        elif _is_linear(layer):
            compute = dtype or layer.compute_dtype
            bias = ops.cast(layer.bias, compute) if layer.use_bias else None
            activated = _apply(layer, ops.cast(layer.kernel, compute), bias)
            found[id(layer)] = _then(activated, layer.activation)
    return found


def affine(norm):
    """Scale and offset, `[channels]`, that a batch normalization is at inference."""
    scale = tf.math.rsqrt(norm.moving_variance.value + norm.epsilon)
    if norm.scale:
        scale = scale * ops.cast(norm.gamma, scale.dtype)
    offset = -norm.moving_mean.value * scale
    if norm.center:
        offset = offset + ops.cast(norm.beta, scale.dtype)
    return scale, offset


def mixtures(part):
    """The mixtures that a functional model calls itself, not in a model nested in it."""
    return [
        node.operation
        for node in graphs.nodes(part)
        if isinstance(node.operation, layers.MixtureBatchNormalization)
    ]


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


def _pairs(part):
    """Nodes of a linear layer and of the batch normalization that alone follows it."""
    nodes = graphs.nodes(part)
    calls, uses = {}, {id(tensor): None for tensor in part.outputs}
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
    """A function of the layer's inputs, with other weights and without the activation."""
    data_format = getattr(layer, "data_format", None) or "channels_last"
    layout = "NC..." if data_format == "channels_first" else "N...C"
    turned = None
    if turned_convolution.turns(layer):
        turned = turned_convolution.turned(kernel, layer.padding)

    def call(inputs, **_):
        inputs = ops.cast(inputs, kernel.dtype)
        if turned is not None:
            outputs = turned(inputs)
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
