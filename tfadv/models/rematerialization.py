"""Running a network block by block, so that its activations can be computed again."""

import contextlib
import dataclasses
import math

import keras
import tensorflow as tf

from tfadv.layers import scope
from tfadv.models import graphs


def run(model, images, training, tables=()):
    """Calls a model so that a gradient computes the activations of its blocks again.

    Between forward and backward pass only what flows from block to block is kept: for ResNets one
    tensor a residual block, in place of what each of its layers needs. A forward pass more is the
    price. Each block is a `tf.recompute_grad`. (Keras's own `remat` updates batch normalization
    twice.) What layers assign, moving statistics and the states of dropout, is assigned once, and
    both runs of a block begin with the same; so they draw the same masks.

    One difference remains from a model that keeps its activations: a variable behind a
    `stop_gradient` has a gradient of zeros, not none, if the rest of its block has one.

    Args:
        model: A Keras model, as of `blocks`.
        images: Its input.
        training: Boolean, Keras's own `training`.
        tables: As of `graphs.substituted`.

    Returns:
        What `model(images, training=training)` returns. Losses that layers add go to the caller's
        `keras.StatelessScope`, if there is one that collects them.

    Raises:
        ValueError: As of `blocks`; and, in a graph, for a layer that draws from TensorFlow's own
            random generators, whose second draw would be another one.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    done = len(graph.get_operations()) if graph is not None else 0
    cuts = blocks(model)
    state = [(variable, variable.value) for variable in model.non_trainable_variables]
    with keras.StatelessScope(state, collect_losses=True) as held, contextlib.ExitStack() as stack:
        before, this = dict(held.state_mapping), _Run(held)
        for part, its_blocks in cuts:
            stack.enter_context(this.through(part, its_blocks))
        stack.enter_context(graphs.substituted(tables))
        outputs = model(images, training=training)
    if graph is not None:
        _check_draws(model, graph.get_operations()[done:])
    for variable in model.variables:
        value = held.get_current_value(variable)
        if value is not before.get(id(variable)):
            variable.assign(value)
    caller = held.original_scope
    if caller is not None and caller.collect_losses:
        for loss in held.losses:
            caller.add_loss(loss)
    return outputs


def blocks(model):
    """Cuts a model where a single tensor holds all that flows.

    A block begins at such a tensor where it goes to several layers, as residual and other branches
    do, and ends before the next one. Where there are no branches, pieces of `sqrt(n)` of the
    model's n layers are cut off. Models in the model are cut by themselves if they are functional
    and lie between two such tensors, or in a subclassed model.

    Args:
        model: A functional, sequential or subclassed Keras model.

    Returns:
        A list of pairs of a functional model, `model` or one in it, and its `Block`s in order.

    Raises:
        ValueError: If there is nothing to cut, as in a subclassed model of layers; or if layers
            hand each other masks, which would be lost between blocks.
    """
    masking = graphs.masking(model)
    if masking is not None:
        raise ValueError(f"rematerialize needs layers without masks; received {masking.name!r}")
    found = {}
    _find(model, found)
    if not found:
        raise ValueError(
            "rematerialize needs a functional or sequential model of several blocks; received "
            f"{type(model).__name__} {model.name!r}"
        )
    return list(found.values())


@dataclasses.dataclass
class Block:
    """A part of a functional model between tensors through which all flows.

    Args:
        nodes: Its operations in order, as Keras's nodes.
        sources, targets: Lists of Keras tensors, what goes in and what comes out.
        leaf: Boolean, whether it is made of layers; else it is one model that is cut by itself.

    Call arguments:
        inputs: List of tensors.
        call: Function of an operation, what to call in its place.

    Returns:
        A list of tensors.
    """

    nodes: list
    sources: list
    targets: list
    leaf: bool = True

    def __call__(self, inputs, call):
        values = dict(zip(map(id, self.sources), inputs, strict=True))
        for node in self.nodes:
            arguments, options = node.arguments.fill_in(values)
            outputs = keras.tree.flatten(call(node.operation)(*arguments, **options))
            values.update(zip(map(id, node.outputs), outputs, strict=True))
        return [values[id(tensor)] for tensor in self.targets]


def _find(model, found):
    """Cuts a model, or the functional ones in a subclassed one; whether the model itself was."""
    part = graphs.functional(model)
    if part is None:
        for layer in model._flatten_layers(include_self=False, recursive=False):
            _find(layer, found)
    elif id(part) not in found:
        its_blocks = _blocks(part, found)
        if len(its_blocks) > 1 or not its_blocks[0].leaf:
            found[id(part)] = (part, its_blocks)
    return id(part) in found


def _blocks(part, found):
    stretches = _stretches(part)
    longest = math.isqrt(sum(len(nodes) for nodes, _ in stretches)) + 1
    made, chain, sources = [], longest, part.inputs
    for nodes, targets in stretches:
        lone = nodes[0].operation if len(nodes) == 1 else None
        inner = graphs.functional(lone) is not None and _find(lone, found)
        if lone is None or inner or chain >= longest:
            made.append(Block([], sources, targets, leaf=not inner))
            chain = 0
        made[-1].nodes.extend(nodes)
        made[-1].targets = sources = targets
        if lone is not None:
            chain = longest if inner else chain + 1
    return made


def _stretches(part):
    """The nodes between the places where one tensor holds all that flows: (nodes, tensors)."""
    nodes = graphs.nodes(part)
    last_use = {id(tensor): at for at, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use.update((id(tensor), len(nodes)) for tensor in part.outputs)
    found, begin, live = [], 0, list(part.inputs)
    for at, node in enumerate(nodes):
        live = [tensor for tensor in live + node.outputs if last_use.get(id(tensor), at) > at]
        if len(live) == 1 and keras.backend.is_float_dtype(live[0].dtype):
            found.append((nodes[begin : at + 1], live))
            begin = at + 1
    if begin < len(nodes):
        found.append((nodes[begin:], part.outputs))
    return found


class _Run:
    """One call of a model, block by block.

    Args:
        held: The `keras.StatelessScope` around the call.
    """

    def __init__(self, held):
        self._held = held
        self._in_block = False

    def through(self, part, its_blocks):
        """Lets a functional model, however it is called in here, go through its blocks."""

        def through_blocks(_, inputs, operation_fn):
            values = keras.tree.flatten(inputs)
            for block in its_blocks:
                # With the last block the backward pass begins: its activations are needed at once.
                if block.leaf and block is not its_blocks[-1] and not self._in_block:
                    values = self._again(block, values, operation_fn)
                else:
                    values = block(values, operation_fn)
            return keras.tree.pack_sequence_as(part.output, values)

        return graphs.through(part, through_blocks)

    def _again(self, block, inputs, call):
        entered, before, first = scope.current(), dict(self._held.state_mapping), []

        def forward(*inputs):
            # The second run comes when the caller's scopes, of the domain and of Keras's state, are
            # gone; so each run has its own, and only what the first one assigns is passed on.
            with scope.use(entered), keras.StatelessScope(collect_losses=True) as own:
                own.state_mapping.update(before)
                outputs = block(inputs, call)
            first.append(own)
            return outputs, own.losses

        self._in_block = True
        try:
            outputs, losses = tf.recompute_grad(forward)(*inputs)
        finally:
            self._in_block = False
        self._held.state_mapping.update(first[0].state_mapping)
        self._held.losses.extend(losses)
        return outputs


def _check_draws(model, operations):
    for operation in operations:
        drawing = any(attribute.name == "seed2" for attribute in operation.op_def.attr)
        if drawing or operation.type.startswith(("Rng", "StatefulUniform", "StatefulStandard")):
            raise ValueError(
                "rematerialize needs layers that draw with keras.random; model "
                f"{model.name!r} draws with {operation.type} in {operation.name!r}"
            )
