"""Running a network block by block, so that its activations can be computed again."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.layers import scope
from tfadv.models import graphs


def run(
    model: keras.Model,
    images: Any,
    training: bool,
    substitutes: graphs.Substitutes | None = None,
) -> Any:
    """Calls a model so that a gradient computes the activations of its blocks again.

    Between forward and backward pass only what flows from block to block is kept: in a ResNet one
    tensor per residual block, where otherwise each of its layers keeps some. The price is one more
    forward pass. Each block is a `tf.recompute_grad`. (Keras's own `remat` updates batch
    normalization twice.) What layers assign (moving statistics, the states of dropout) is assigned
    once, and both runs of a block begin with the same values, so they draw the same masks.

    One difference from a model that keeps its activations remains: a variable whose gradient a
    `stop_gradient` stops has a gradient of zeros, not None, if the rest of its block has one.

    Args:
        model: A functional or sequential Keras model of several blocks. It is not changed: a
            network of its own goes through its graph block by block (`graphs.rewired`).
        images: Its input.
        training: Boolean, Keras's own `training`.
        substitutes: Functions to call instead of operations, as in `graphs.rewired`.

    Returns:
        What `model(images, training=training)` returns. Losses that layers add go to the caller's
        `keras.StatelessScope`, if there is one that collects them.

    Raises:
        ValueError: As `blocks` does; and, in a graph, for a layer that draws from TensorFlow's own
            random generators, because its second draw would differ.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    earlier = len(graph.get_operations()) if graph is not None else 0
    cuts = blocks(model)
    state = [(variable, variable.value) for variable in model.non_trainable_variables]
    with keras.StatelessScope(state, collect_losses=True) as held:
        before, this = dict(held.state_mapping), _Run(held)
        runs = {id(part): this.through(part, its_blocks) for part, its_blocks in cuts}
        outputs = graphs.rewired(model, substitutes, runs)(images, training=training)
    if graph is not None:
        _check_draws(model, graph.get_operations()[earlier:])
    for variable in model.variables:
        value = held.get_current_value(variable)
        if value is not before.get(id(variable)):
            variable.assign(value)
    caller = held.original_scope
    if caller is not None and caller.collect_losses:
        for loss in held.losses:
            caller.add_loss(loss)
    return outputs


def blocks(model: keras.Model) -> list[tuple[keras.Function, list["Block"]]]:
    """Cuts a model where a single tensor holds all that flows.

    A block begins at such a tensor where it goes to several layers, as residual and other branches
    do, and ends before the next one. Where there are no branches, pieces of `sqrt(n)` of the
    model's n layers are cut off. A model in the graph is cut by itself if it is functional and lies
    between two such tensors.

    Args:
        model: A functional or sequential Keras model.

    Returns:
        Pairs of a functional model, `model` or one in its graph, and its `Block`s in order.

    Raises:
        ValueError: If there is nothing to cut, as in a subclassed model, whose code calls its
            layers without a graph; or if layers pass on masks, which would be lost between blocks.
    """
    masking = graphs.masking(model)
    if masking is not None:
        raise ValueError(f"rematerialize needs layers without masks; received {masking.name!r}")
    cuts: dict = {}
    if keras_internals.function_of(model) is None or not _cut(model, cuts):
        raise ValueError(
            "rematerialize needs a functional or sequential model of several blocks; received "
            f"{type(model).__name__} {model.name!r}"
        )
    return list(cuts.values())


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


def _cut(model, cuts):
    """Cuts a functional model and those in its graph; returns whether the model itself was cut."""
    part = keras_internals.function_of(model)
    if id(part) not in cuts:
        its_blocks = _blocks(part, cuts)
        if len(its_blocks) > 1 or not its_blocks[0].leaf:
            cuts[id(part)] = (part, its_blocks)
    return id(part) in cuts


def _blocks(part, cuts):
    stretches = _stretches(part)
    longest = math.isqrt(sum(len(nodes) for nodes, _ in stretches)) + 1
    its_blocks, chain, sources = [], longest, part.inputs
    for nodes, targets in stretches:
        lone = nodes[0].operation if len(nodes) == 1 else None
        inner = keras_internals.function_of(lone) is not None and _cut(lone, cuts)
        if lone is None or inner or chain >= longest:
            its_blocks.append(Block([], sources, targets, leaf=not inner))
            chain = 0
        its_blocks[-1].nodes.extend(nodes)
        its_blocks[-1].targets = sources = targets
        if lone is not None:
            chain = longest if inner else chain + 1
    return its_blocks


def _stretches(part):
    """Returns the nodes between the places where one tensor holds all that flows, with it."""
    nodes = keras_internals.nodes(part)
    last_use = {id(tensor): at for at, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use.update((id(tensor), len(nodes)) for tensor in part.outputs)
    stretches, begin, live = [], 0, list(part.inputs)
    for at, node in enumerate(nodes):
        live = [tensor for tensor in live + node.outputs if last_use.get(id(tensor), at) > at]
        if len(live) == 1 and keras.backend.is_float_dtype(live[0].dtype):
            stretches.append((nodes[begin : at + 1], live))
            begin = at + 1
    if begin < len(nodes):
        stretches.append((nodes[begin:], part.outputs))
    return stretches


class _Run:
    """One call of a model, block by block.

    Args:
        held: The `keras.StatelessScope` around the call.
    """

    def __init__(self, held):
        self._held = held
        self._in_block = False

    def through(self, part, its_blocks):
        """Returns the function that goes through a functional model's blocks, for `rewired`."""

        def through_blocks(inputs, choose):
            values = keras.tree.flatten(inputs)
            for block in its_blocks:
                # With the last block the backward pass begins: its activations are needed at once.
                if block.leaf and block is not its_blocks[-1] and not self._in_block:
                    values = self._again(block, values, choose)
                else:
                    values = block(values, choose)
            return keras.tree.pack_sequence_as(part.output, values)

        return through_blocks

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
