"""Running a network block by block, so that its activations can be computed again."""

import keras
import numpy as np
import tensorflow as tf

from tfadv.layers import scope


def run(model, images, training):
    """Calls a functional model so that a gradient computes the activations of its blocks again.

    Between forward and backward pass only what flows from block to block is kept: for ResNets one
    tensor a residual block, in place of about ten. A forward pass more is the price. Each block is
    a `tf.recompute_grad`. (Keras's own `remat` updates batch normalization twice.)

    Args:
        model: A functional or sequential Keras model with one input.
        images: Its input.
        training: Boolean, Keras's own `training`.

    Returns:
        What `model(images, training=training)` returns. Values that its layers assign, such as
        moving statistics, are assigned once.

    Raises:
        ValueError: If the model is subclassed, so that nobody knows what it is made of, or its
            layers hand each other masks, which `tf.recompute_grad` would lose.
    """
    x = tf.cast(images, model.inputs[0].dtype)
    for block in blocks(model):
        x = block(x, training)
    return x


def blocks(model):
    """Cuts a functional model where a single tensor holds all that flows.

    Where residual or other branches begin there is such a tensor, and it goes to several layers: so
    these are the cuts. A network without branches is cut into as many pieces as each has layers.
    A model in the model, as one that is fine-tuned, is never cut.

    Args:
        model: A functional or sequential Keras model with one input.

    Returns:
        A list of `Block`, in order.

    Raises:
        ValueError: As of `run`.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
            raise ValueError(f"rematerialize needs layers without masks; received {layer.name!r}")
    graph = getattr(model, "_functional", model)  # a sequential model holds a functional one
    if not hasattr(graph, "_nodes_by_depth"):
        raise ValueError(
            "rematerialize needs a functional or sequential model; received "
            f"{type(model).__name__} {model.name!r}"
        )
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]
    uses = {id(tensor): [] for node in nodes for tensor in node.outputs}
    uses[id(graph.inputs[0])] = []
    for place, node in enumerate(nodes):
        for tensor in {id(tensor) for tensor in node.input_tensors}:
            uses[tensor].append(place)
    for tensor in graph.outputs:
        uses[id(tensor)].append(len(nodes))
    alone = _alone(nodes, uses, graph.inputs[0])
    cuts = [place for place, tensor in alone if len(uses[id(tensor)]) > 1]
    if len(cuts) < 2:
        number = max(1, round(np.sqrt(len(alone))))
        cuts = [alone[i][0] for i in np.linspace(0, len(alone), number, endpoint=False, dtype=int)]
    last = dict(alone)
    bounds = [0, *sorted({place for place in cuts if place > 0}), len(nodes)]
    tensors = [graph.inputs[0], *(last[place] for place in bounds[1:-1]), graph.outputs[0]]
    return [
        Block(nodes[begin:end], source, target)
        for begin, end, source, target in zip(
            bounds, bounds[1:], tensors, tensors[1:], strict=False
        )
    ]


def _alone(nodes, uses, source):
    """Places before a node where one tensor is all that later nodes use: (place, tensor)."""
    found, live = [], {id(source): source}
    for place, node in enumerate(nodes):
        if len(live) == 1:
            found.append((place, next(iter(live.values()))))
        live.update((id(tensor), tensor) for tensor in node.outputs)
        live = {key: tensor for key, tensor in live.items() if uses[key] and uses[key][-1] > place}
    return found


class Block:
    """A part of a functional model between two tensors through which all flows.

    Args:
        nodes: The model's operations in order, those of this part.
        source, target: Keras tensors, what goes in and what comes out.

    Call arguments:
        x: Tensor.
        training: Boolean.

    Returns:
        A tensor, whose gradient runs the block again.
    """

    def __init__(self, nodes, source, target):
        self._nodes = nodes
        self._source = source
        self._target = target
        layers = {
            id(layer): layer
            for node in nodes
            if isinstance(node.operation, keras.Layer)
            for layer in node.operation._flatten_layers()
            if not isinstance(layer, keras.Model)
        }
        self._layers = list(layers.values())

    def __call__(self, x, training):
        entered = scope.current()
        # What layers assign: in both runs they begin with the values of now.
        state = {
            id(v): (v, tf.convert_to_tensor(v.value))
            for layer in self._layers
            for v in layer.non_trainable_variables
        }
        assigned = []

        def forward(x):
            # The second run comes when the caller's scopes, of the domain and of Keras's state, are
            # gone; so each run has its own, and only what the first one assigns is passed on.
            with (
                scope.use(entered),
                keras.StatelessScope(state.values(), collect_losses=True) as inner,
            ):
                y = self._through(x, training)
            if not assigned:
                assigned.append([(v, inner.get_current_value(v)) for v, _ in state.values()])
            return y, tuple(inner.losses)

        y, losses = tf.recompute_grad(forward)(x)
        for variable, value in assigned[0]:
            if value is not state[id(variable)][1]:
                variable.assign(value)
        for loss in losses:
            self._layers[0].add_loss(loss)  # to Keras's scope, which asks of no layer whose it is
        return y

    def _through(self, x, training):
        values = {id(self._source): x}
        for node in self._nodes:
            arguments, options = node.arguments.fill_in(values)
            if "training" in getattr(node.operation, "_call_context_args", {}):
                options["training"] = training
            outputs = tf.nest.flatten(node.operation(*arguments, **options))
            values.update((id(k), v) for k, v in zip(node.outputs, outputs, strict=True))
        return values[id(self._target)]
