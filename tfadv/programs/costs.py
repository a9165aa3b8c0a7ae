"""What one image costs in a network: FLOPs and bytes from its graph, and the FLOP/s measured here.

TensorFlow's profiler counts FLOPs too, and a test compares the two. It cannot replace `flops`: it
counts nothing for the gradients of depthwise convolutions and for `Einsum`, and the gradients of a
convolution with stride 2 over 7 x 7 positions as 7 * 7 / 4 products instead of the 16 that it has.
"""

import dataclasses
import inspect
import math
import re
import statistics
import string
import time

import keras
import numpy as np
import tensorflow as tf

from tfadv import keras_internals
from tfadv.attacks import PGD
from tfadv.layers import scope
from tfadv.models import rematerialization
from tfadv.training import AdversarialStep
from tfadv.training.batches import clean_count

_BATCH = 2  # one adversarial and one clean image, so that a mixture meets both
_CONVOLUTION = re.compile("(Conv2D|DepthwiseConv2dNative)(BackpropInput|BackpropFilter)?")
# Operations that read the shape of a tensor, which need not stay in memory for them.
_SHAPE_ALONE = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "BroadcastGradientArgs"}


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """What one image costs in a network.

    Attributes:
        forward: FLOPs of one pass to the logits, two for each multiplication with its addition.
        image_gradient: FLOPs of one forward pass and the gradient to the image: an attack step.
        update: FLOPs of one forward pass and the gradients to the trainable weights.
        parameters: Number of trainable parameters.
        reduced_bytes: Bytes that the workers average at every update: gradients and moving
            statistics.
        attack_bytes, update_bytes: Bytes of the activations that an attack step and an update
            keep for their gradients.
        rematerialized_attack_bytes, rematerialized_update_bytes: The same with rematerialized
            blocks: what flows between the blocks, and the activations of the largest one.
    """

    forward: int
    image_gradient: int
    update: int
    parameters: int
    reduced_bytes: int
    attack_bytes: int
    update_bytes: int
    rematerialized_attack_bytes: int
    rematerialized_update_bytes: int


def network_cost(model: keras.Model) -> NetworkCost:
    """Counts what one image costs in a model.

    Every layer is traced into a graph of its own, forward and backward, and layers that are alike
    only once. So ResNet-638 takes seconds, and nothing is computed. The variables need no values:
    a model built within `keras.StatelessScope(initialize_variables=False)` takes no memory either.

    Args:
        model: A functional Keras model of images of a fixed size.

    Returns:
        A `NetworkCost`.

    Raises:
        ValueError: If the model is not functional or its images have no fixed size.
    """
    function = keras_internals.function_of(model)
    if function is None:
        raise ValueError(
            f"model must be functional or sequential; received {type(model).__name__} "
            f"{model.name!r}"
        )
    nodes = keras_internals.nodes(function)
    if any(None in tensor.shape[1:] for node in nodes for tensor in node.input_tensors):
        raise ValueError(f"model must take images of a fixed size; received {model.input_shape}")

    known = {}

    def traced(key, node, **options):
        key = (key, *options.values())
        if key not in known:
            known[key] = _trace(node, **options)
        return known[key]

    attack, update = {}, {}
    trained: set[int] = set()  # ids of tensors that depend on trainable weights
    for node in nodes:
        key = _key(node)
        trains = bool(getattr(node.operation, "trainable_variables", ()))
        depends = any(id(tensor) in trained for tensor in node.input_tensors)
        if trains or depends:
            trained.update(id(tensor) for tensor in node.outputs)
        attack[id(node)] = traced(key, node, training=False, to_inputs=True, to_weights=False)
        update[id(node)] = traced(key, node, training=True, to_inputs=depends, to_weights=trains)
    try:
        cuts = rematerialization.blocks(model)
    except ValueError:  # the network is one block
        blocks, between = [nodes], {}
    else:
        between = {id(t): _bytes(t) for _, group in cuts for block in group for t in block.sources}
        blocks = [block.nodes for _, group in cuts for block in group]

    def rematerialized(traces):
        return sum(between.values()) + max(_kept_bytes(traces, block) for block in blocks)

    floats = [v for v in model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
    return NetworkCost(
        forward=sum(each.forward for each in attack.values()) // _BATCH,
        image_gradient=sum(each.forward + each.backward for each in attack.values()) // _BATCH,
        update=sum(each.forward + each.backward for each in update.values()) // _BATCH,
        parameters=sum(math.prod(v.shape) for v in model.trainable_variables),
        reduced_bytes=sum(_bytes(v, batched=False) for v in [*model.trainable_variables, *floats]),
        attack_bytes=_kept_bytes(attack, nodes),
        update_bytes=_kept_bytes(update, nodes),
        rematerialized_attack_bytes=rematerialized(attack),
        rematerialized_update_bytes=rematerialized(update),
    )


def _key(node):
    """Returns a key that is equal for nodes with equal costs."""
    operation = node.operation
    try:
        config = operation.get_config()
    except NotImplementedError:
        return id(node)
    config = {k: v for k, v in config.items() if not re.search("^name$|seed|initializer", k)}
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in node.input_tensors]
    return type(operation), repr(config), repr(shapes), getattr(operation, "trainable", None)


@dataclasses.dataclass(frozen=True)
class _Trace:
    """One layer in a pass through the network.

    Attributes:
        forward, backward: FLOPs of `_BATCH` images.
        kept: Which tensors of [*inputs, *outputs] the gradient reads.
        inner_bytes: Bytes of the tensors between them that it reads, of `_BATCH` images.
    """

    forward: int
    backward: int
    kept: list[int]
    inner_bytes: int


def _trace(node, training, to_inputs, to_weights):
    """Traces a node alone, with the gradients to its inputs, its weights, both or neither."""
    operation = node.operation
    variables = getattr(operation, "variables", ())
    with tf.Graph().as_default():
        inputs = [_placeholder(t.dtype, (_BATCH, *t.shape[1:])) for t in node.input_tensors]
        values = [_placeholder(v.dtype, v.shape) for v in variables]
        arguments, options = node.arguments.fill_in(
            dict(zip(map(id, node.input_tensors), inputs, strict=True))
        )
        if "training" in inspect.signature(operation.call).parameters:
            options["training"] = training
        mapping = list(zip(variables, values, strict=True))
        # Variables without values must not get them when the scope ends.
        stateless = keras.StatelessScope(mapping, initialize_variables=False)
        with scope.enter(1 if training else "adv"), stateless:
            outputs = keras.tree.flatten(operation(*arguments, **options))
        sources = inputs * to_inputs
        sources += [value for variable, value in mapping if variable.trainable] * to_weights
        gradients = tf.gradients(outputs, sources) if sources else []
        forward = _operations_before(outputs)
        backward = _operations_before(g for g in gradients if g is not None) - forward
    read = {
        tensor.name: tensor
        for each in backward
        if each.type not in _SHAPE_ALONE
        for tensor in each.inputs
        if tensor.op in forward and tensor.op.type != "Const"
    }
    places = {tensor.name: place for place, tensor in enumerate([*inputs, *outputs])}
    outside = {*places, *(tensor.name for tensor in values)}
    return _Trace(
        sum(map(flops, forward)),
        sum(map(flops, backward)),
        [places[name] for name in read if name in places],
        sum(
            _bytes(tensor, batched=False)
            for name, tensor in read.items()
            if name not in outside and _has_images(tensor)
        ),
    )


def _placeholder(dtype, shape):
    return tf.compat.v1.placeholder(dtype, shape)


def _operations_before(tensors):
    """Returns the set of all operations that tensors depend on."""
    operations, pending = set(), [tensor.op for tensor in tensors]
    while pending:
        operation = pending.pop()
        if operation not in operations:
            operations.add(operation)
            pending += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return operations


def flops(operation: tf.Operation) -> int:
    """Returns the FLOPs of one TensorFlow operation: of convolutions and matrix products.

    They are `2 * (elements of the result) * (products summed in each)`. The two gradients of a
    convolution have as many products as the convolution itself. Everything else counts 0, as usual:
    it waits for memory, not for arithmetic.

    Args:
        operation: A `tf.Operation` whose tensors have static shapes.
    """
    kind, inputs, outputs = operation.type, operation.inputs, operation.outputs
    if convolution := _CONVOLUTION.fullmatch(kind):
        gradient = convolution[2]
        result = inputs[2] if gradient else outputs[0]
        kernel = outputs[0] if gradient == "BackpropFilter" else inputs[1]
        # [height, width, input channels of a group, filters]
        window = kernel.shape[: 3 if convolution[1] == "Conv2D" else 2]
        return 2 * math.prod(result.shape) * math.prod(window)
    if kind in ("MatMul", "BatchMatMulV2", "BatchMatMulV3"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        return 2 * math.prod(outputs[0].shape) * inputs[0].shape[-2 if transposed else -1]
    if kind == "Einsum" and len(inputs) > 1:
        lengths: dict[str, int] = {}
        terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
        for term, tensor in zip(terms, inputs, strict=True):
            # Digits for the dimensions of an ellipsis, which are aligned at their ends.
            count = tensor.shape.rank - len(term.replace("...", ""))
            names = term.replace("...", string.digits[::-1][10 - count :])
            for name, length in zip(names, tensor.shape, strict=True):
                lengths[name] = max(lengths.get(name, 1), length)
        return 2 * math.prod(lengths.values())
    return 0


def _has_images(tensor):
    # Other tensors, such as statistics, are small. A branch of a mixture sees one of the two
    # images; what a kernel of cuDNN reserves for its gradient has no known shape.
    return (tensor.shape.rank or 0) > 1 and tensor.shape[0] in (1, _BATCH)


def _bytes(tensor, batched=True):
    """Returns the bytes of a tensor or variable; of one image if it is batched."""
    return math.prod(tensor.shape[int(batched) :]) * tf.as_dtype(tensor.dtype).size


def _kept_bytes(traces, nodes):
    """Returns the bytes of one image that some nodes keep for their gradients."""
    boundary, inner = {}, 0
    for node in nodes:
        if id(node) in traces:
            trace, tensors = traces[id(node)], [*node.input_tensors, *node.outputs]
            inner += trace.inner_bytes // _BATCH
            boundary |= {id(tensors[place]): _bytes(tensors[place]) for place in trace.kept}
    return inner + sum(boundary.values())


_STEPS = 4  # of the attack that is timed against none
_CALLS = 5
# FLOPs that take a core of a CPU about a second. A GPU gets a worker's whole batch.
_CPU_FLOPS = 60e9


def measure_rates(
    model: keras.Model,
    attack: PGD | None,
    cost: NetworkCost,
    *,
    images: int,
    clean_ratio: float = 1.0,
    rematerialize: str = "none",
    attack_precision: str = "float32",
    jit_compile: bool | None = None,
) -> tuple[float, float]:
    """Measures the FLOP/s that this machine reaches in a network's attack and in its update.

    It times real training steps, the optimizer's update included, on random images: with an attack
    of four iterations and with one of none. The difference is the attack's. They run on the one
    device, or all the cores, that this process sees, and they train the model.

    Args:
        model: A compiled Keras model of images in [0, 255] that ends in logits.
        attack: A `PGD`, or None to train on clean images alone.
        cost: The `NetworkCost` of the model.
        images: Clean images of a batch. On a CPU, only as many of them as take about a second, but
            at least two.
        clean_ratio, rematerialize, attack_precision, jit_compile: As in `AdversarialTraining`.

    Returns:
        FLOP/s of the attack and FLOP/s of the update's forward and backward pass. Without an attack
        both are those of the update.
    """
    if not tf.config.get_visible_devices("GPU"):
        images = min(images, max(2, int(_CPU_FLOPS / (2 * cost.update))))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    generator = np.random.default_rng(0)
    classes = model.output_shape[-1]
    x = tf.constant(generator.uniform(0, 255, (images, *model.input_shape[1:])), tf.float32)
    y = tf.one_hot(generator.integers(0, classes, images), classes)

    def compiled(attack):
        step = AdversarialStep(
            model,
            attack,
            (0, 255),
            clean_ratio=1.0 if attack is None else clean_ratio,
            rematerialize=rematerialize,
            attack_precision=attack_precision,
            jit_compile=jit_compile,
        )
        step.build((tf.TensorSpec(x.shape, x.dtype), tf.TensorSpec(y.shape, y.dtype)))
        return tf.function(lambda: step((x, y)), autograph=False)

    once = cost.update + cost.forward * (rematerialize != "none")
    if attack is None:
        [seconds] = _measured(compiled(None))
        return images * once / seconds, images * once / seconds
    short, long = (attack.replace(num_steps=count, restarts=1) for count in (0, _STEPS))
    without, with_steps = _measured(compiled(short), compiled(long))
    count = images + (clean_count(images, clean_ratio) if clean_ratio else 0)
    attack_step = cost.image_gradient + cost.forward * (rematerialize == "all")
    # On a busy machine the difference may vanish or become negative.
    attack_seconds = max(with_steps - without, 0.1 * with_steps)
    return _STEPS * images * attack_step / attack_seconds, count * once / without


def _measured(*functions):
    """Returns the median seconds of each of some functions, called in turns."""
    for function in functions:
        _seconds(function)  # traces
    turns = [[_seconds(function) for function in functions] for _ in range(_CALLS)]
    return [statistics.median(seconds) for seconds in zip(*turns, strict=True)]


def _seconds(function):
    start = time.perf_counter()
    function()["loss"].numpy()
    return time.perf_counter() - start
