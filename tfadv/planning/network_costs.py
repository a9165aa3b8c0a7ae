import dataclasses
import inspect
import math
import re

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.layers import scope
from tfadv.models import rematerialization
from tfadv.planning import operations

_BATCH = 2  # one adversarial and one clean image, so that a mixture meets both


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """What one image costs in a network, counted from TensorFlow's graphs.

    Attributes:
        forward: FLOPs of one pass to the logits (two for each multiplication with addition).
        image_gradient: FLOPs of one forward pass and the gradient to the image: an attack step.
        update: FLOPs of one forward pass and the gradients of what trains: the update's pass.
        parameters: How many numbers train.
        reduced_bytes: What the workers average at every update: gradients and moving statistics.
        attack_bytes, update_bytes: Activations that an attack step and the update's pass keep for
            their gradients, of one image.
        rematerialized_attack_bytes, rematerialized_update_bytes: The same if blocks are computed
            again: what flows between them, and the largest block.
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


def network_cost(model):
    """Counts what one image costs in a model.

    Every layer is put into a graph alone, forward and backward, layers that are alike only once;
    what the graph's convolutions and matrix products do is added up. So ResNet-638 takes seconds,
    and no image is computed. A model whose variables have no values yet, made within
    `keras.StatelessScope(initialize_variables=False)`, will do, and takes no memory either.

    Args:
        model: A functional Keras model of images of a fixed size.

    Returns:
        A `NetworkCost`.

    Raises:
        ValueError: For a model that is not functional or whose images have no fixed size.
    """
    nodes = _nodes(model)
    layers, known = {}, {}
    reached = set()  # tensors that depend on something that trains
    forward = image_gradient = update = 0
    for node in nodes:
        key = _key(node)
        if key not in known:
            known[key] = _Layer(node)
        layer = layers[id(node)] = known[key]
        trains = bool(getattr(node.operation, "trainable_variables", ()))
        needs_inputs = any(id(tensor) in reached for tensor in node.input_tensors)
        if trains or needs_inputs:
            reached.update(id(tensor) for tensor in node.outputs)
        forward += layer.forward
        image_gradient += layer.forward + layer.to_image
        update += layer.forward + layer.backward[needs_inputs, trains]
    return NetworkCost(
        forward // _BATCH,
        image_gradient // _BATCH,
        update // _BATCH,
        sum(math.prod(v.shape) for v in model.trainable_variables),
        _reduced_bytes(model),
        *(_kept_bytes(layers, [nodes], training) for training in (False, True)),
        *(_rematerialized_bytes(model, layers, training) for training in (False, True)),
    )


def _nodes(model):
    function = keras_internals.function_of(model)
    if function is None:
        raise ValueError(
            f"model must be functional or sequential; received {type(model).__name__} "
            f"{model.name!r}"
        )
    nodes = keras_internals.nodes(function)
    for node in nodes:
        for tensor in node.input_tensors:
            if None in tensor.shape[1:]:
                raise ValueError(
                    f"model must take images of a fixed size; received {model.input_shape}"
                )
    return nodes


def _key(node):
    """Equal for nodes that cost the same."""
    operation = node.operation
    try:
        config = operation.get_config()
    except NotImplementedError:
        return id(node)
    named = re.compile("^name$|seed|initializer")
    alike = {name: value for name, value in config.items() if not named.search(name)}
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in node.input_tensors]
    return type(operation), repr(alike), repr(shapes), getattr(operation, "trainable", None)


class _Layer:
    """One layer, forward and backward, at inference as in an attack and in training."""

    def __init__(self, node):
        self.kept = {}
        # FLOPs of the gradients of (its inputs, its weights), each wanted or not.
        self.forward, backward = self._traced(node, False, [(True, False)])
        self.to_image = backward[True, False]
        wanted = [(False, False), (True, False), (False, True), (True, True)]
        _, self.backward = self._traced(node, True, wanted)

    def _traced(self, node, training, wanted):
        operation = node.operation
        variables = getattr(operation, "variables", ())
        with tf.Graph().as_default():
            inputs = [_placeholder((_BATCH, *t.shape[1:]), t.dtype) for t in node.input_tensors]
            values = [_placeholder(v.shape, v.dtype) for v in variables]
            arguments, options = node.arguments.fill_in(
                dict(zip(map(id, node.input_tensors), inputs, strict=True))
            )
            if "training" in inspect.signature(operation.call).parameters:
                options["training"] = training
            mapping = list(zip(variables, values, strict=True))
            with scope.enter(1 if training else "adv"), _stateless(mapping):
                outputs = keras.tree.flatten(operation(*arguments, **options))
            trained = [value for variable, value in mapping if variable.trainable]
            forward = operations.before(outputs)
            backward = {}
            for to_inputs, to_weights in wanted:
                to = inputs * to_inputs + trained * to_weights
                found = tf.gradients(outputs, to) if to else []
                steps = operations.before([g for g in found if g is not None]) - forward
                backward[to_inputs, to_weights] = sum(map(operations.flops, steps))
            read = operations.kept(forward, steps)  # of the last, which wants the most
            self.kept[training] = _Kept(read, inputs, outputs, values)
            return sum(map(operations.flops, forward)), backward


class _Kept:
    """Which of a layer's tensors its gradient reads."""

    def __init__(self, read, inputs, outputs, values):
        places = {t.name: ("input", i) for i, t in enumerate(inputs)}
        places |= {t.name: ("output", i) for i, t in enumerate(outputs)}
        own = {tensor.name for tensor in values}
        self.places = [places[name] for name in read if name in places]
        # What has no image in it, such as statistics, is small.
        self.inner_bytes = sum(
            _bytes(tensor.shape, tensor.dtype)
            for name, tensor in read.items()
            if name not in places and name not in own and _has_images(tensor)
        )


def _stateless(mapping=()):
    # Variables without values must not get them when it ends.
    return keras.StatelessScope(mapping, initialize_variables=False)


def _placeholder(shape, dtype):
    return tf.compat.v1.placeholder(dtype, shape)


def _has_images(tensor):
    shape = tensor.shape  # unknown for what a kernel of cuDNN reserves for its gradient
    images = (1, _BATCH)  # a branch of a mixture sees one of the two
    return (shape.rank or 0) > 1 and shape[0] in images


def _bytes(shape, dtype):
    return math.prod(shape) * tf.as_dtype(dtype).size


def _reduced_bytes(model):
    floats = [v for v in model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
    return sum(_bytes(v.shape, v.dtype) for v in [*model.trainable_variables, *floats])


def _kept_bytes(layers, groups, training):
    """Bytes of one image that the largest of some groups of nodes keeps."""
    most = 0
    for nodes in groups:
        boundary, inner = {}, 0
        for node in nodes:
            if id(node) not in layers:
                continue
            kept = layers[id(node)].kept[training]
            inner += kept.inner_bytes // _BATCH
            for side, place in kept.places:
                tensor = (node.input_tensors if side == "input" else node.outputs)[place]
                boundary[id(tensor)] = _bytes(tensor.shape[1:], tensor.dtype)
        most = max(most, inner + sum(boundary.values()))
    return most


def _rematerialized_bytes(model, layers, training):
    try:
        cuts = rematerialization.blocks(model)
    except ValueError:  # a network of one block
        return _kept_bytes(layers, [_nodes(model)], training)
    blocks = [block for _, its_blocks in cuts for block in its_blocks]
    between = {id(t): _bytes(t.shape[1:], t.dtype) for block in blocks for t in block.sources}
    return sum(between.values()) + _kept_bytes(layers, [b.nodes for b in blocks], training)
