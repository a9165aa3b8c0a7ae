import math

# Consumers that ask for a tensor's shape alone, which does not keep it in memory.
_SHAPE_ALONE = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "BroadcastGradientArgs"}


def flops(operation):
    """Floating-point operations of one TensorFlow operation: of convolutions and matrix products.

    `2 * (elements of the output) * (products summed in each)`, an addition and a multiplication
    for each product. Gradients of a convolution have as many products as the convolution itself.
    Everything else counts nothing, as is usual: it waits for memory, not for arithmetic.

    Args:
        operation: A `tf.Operation` whose tensors have static shapes.

    Returns:
        Integer.
    """
    count = _COUNTS.get(operation.type)
    return 0 if count is None else 2 * count(operation)


def before(tensors):
    """All operations that tensors depend on, as a set."""
    found, open_ = set(), [tensor.op for tensor in tensors]
    while open_:
        operation = open_.pop()
        if operation not in found:
            found.add(operation)
            open_ += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return found


def kept(forward, backward):
    """Tensors of the forward pass that the backward pass reads, by name.

    Args:
        forward, backward: Sets of operations.
    """
    return {
        tensor.name: tensor
        for operation in backward
        if operation.type not in _SHAPE_ALONE
        for tensor in operation.inputs
        if tensor.op in forward and tensor.op.type != "Const"
    }


def _size(tensor):
    return math.prod(tensor.shape.as_list())


def _window(kernel):
    # [height, width, channels in a group, filters]
    return math.prod(kernel.shape.as_list()[:-1])


def _depthwise_window(kernel):
    return math.prod(kernel.shape.as_list()[:2])


def _matmul(operation, transposed):
    left = operation.inputs[0].shape.as_list()
    return _size(operation.outputs[0]) * left[-2 if operation.get_attr(transposed) else -1]


def _einsum(operation):
    terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
    lengths = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        head, dots, tail = term.partition("...")
        shape = tensor.shape.as_list()
        names = list(head)
        if dots:
            broadcast = len(shape) - len(head) - len(tail)
            names += [("...", place) for place in range(-broadcast, 0)]
        for name, length in zip([*names, *tail], shape, strict=True):
            lengths[name] = max(length, lengths.get(name, 1))
    return math.prod(lengths.values()) if len(terms) > 1 else 0


_COUNTS = {
    "Conv2D": lambda op: _size(op.outputs[0]) * _window(op.inputs[1]),
    "Conv2DBackpropInput": lambda op: _size(op.inputs[2]) * _window(op.inputs[1]),
    "Conv2DBackpropFilter": lambda op: _size(op.inputs[2]) * _window(op.outputs[0]),
    "DepthwiseConv2dNative": lambda op: _size(op.outputs[0]) * _depthwise_window(op.inputs[1]),
    "DepthwiseConv2dNativeBackpropInput": lambda op: (
        _size(op.inputs[2]) * _depthwise_window(op.inputs[1])
    ),
    "DepthwiseConv2dNativeBackpropFilter": lambda op: (
        _size(op.inputs[2]) * _depthwise_window(op.outputs[0])
    ),
    "MatMul": lambda op: _matmul(op, "transpose_a"),
    "BatchMatMulV2": lambda op: _matmul(op, "adj_x"),
    "BatchMatMulV3": lambda op: _matmul(op, "adj_x"),
    "Einsum": _einsum,
}
