import keras

from tfadv.models import structures


@keras.saving.register_keras_serializable("tfadv")
class WithoutActivation(keras.layers.Layer):
    """Calls a layer with its activation left out, sharing the layer's weights."""

    def __init__(self, layer, **kwargs):
        super().__init__(**{"dtype": layer.dtype_policy, **kwargs})
        self.layer = layer

    def call(self, inputs):
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return self.layer(inputs)
        finally:
            self.layer.activation = activation

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


def logits(model):
    """The part of a classifier up to its logits.

    An attack needs logits: through the softmax that, for example, the models of
    `keras.applications` end in, the gradient of a confident network is zero in float32. The
    softmax is left out whether it is the activation of the last layer, a layer of its own, or the
    end of a model nested in this one.

    Args:
        model: A Keras model with one output `[batch, classes]`.

    Returns:
        The model itself where it does not end in a softmax, else a functional model that shares
        every layer of it; so, too, for a functional model that takes or returns a dictionary or
        list of one tensor, which this one does without. (A softmax inside of a subclassed model
        cannot be seen; attacks recognize its outputs as probabilities and refuse them.)
    """
    outputs = _without_softmax(model)
    if outputs is None:
        if structures.is_plain(model) or len(model.inputs) != 1 or len(model.outputs) != 1:
            return model
        outputs = model.outputs[0]
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return keras.Model(inputs, outputs)


def ends_in_logits(model):
    """Whether a model does not end in a softmax that `logits` would leave out."""
    return _without_softmax(model) is None


def _without_softmax(model):
    """The output of a model without its final softmax; None if there is none."""
    node = _last_node(model)
    if node is None:
        return None
    layer, tensor = node.operation, node.input_tensors[0]
    if isinstance(layer, keras.Model):
        return None if ends_in_logits(layer) else logits(layer)(tensor)
    if type(layer).__name__ == "Softmax":  # the layer, or the operation of `keras.ops.softmax`
        return tensor
    if getattr(layer, "activation", None) is not keras.activations.softmax:
        return None
    if isinstance(layer, keras.layers.Activation):
        return tensor
    return WithoutActivation(layer, name=f"{layer.name}_logits")(tensor)


def _last_node(model):
    """What made the output of a functional or sequential model; None for a subclassed one."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    history = outputs[0]._keras_history
    return history.operation._inbound_nodes[history.node_index]
