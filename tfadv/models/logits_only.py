import keras
import tensorflow as tf

from tfadv.models import structures

# Without these the same class is the largest: they increase in every logit, or, as the softmax,
# keep the order of the logits. All of them flatten where a network is confident.
_REMOVABLE = ("softmax", "sigmoid", "log_sigmoid", "tanh", "softsign")
# These are constant from some value on, where classes tie that their inputs tell apart.
_CAPPED_RELU = "relu with a max_value"
_CONSTANT = ("hard_sigmoid", "sparse_sigmoid", "hard_tanh", "relu6", "sparsemax", _CAPPED_RELU)
# Layers that change nothing at inference.
_INACTIVE = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)


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
    `keras.applications` end in, the gradient of a confident network is zero in float32, and
    through a sigmoid or tanh it is misleading. Such an activation is left out whether it is that
    of the last layer, a layer of its own, an operation, or the end of a model nested in this one;
    no class changes by it.

    Args:
        model: A Keras model with one output `[batch, classes]`.

    Returns:
        The model itself where it does not end in a softmax, sigmoid, log-sigmoid, tanh or
        softsign, else a functional model that shares every layer of it; so, too, for a functional
        model that takes or returns a dictionary or list of one tensor, which this one does without.
        (An activation inside a subclassed model cannot be seen; attacks recognize probabilities and
        refuse them, and an evaluation doubts other bounded outputs.)
    """
    name, make = _ending(model)
    if name in _REMOVABLE:
        outputs = make()
    elif (
        not getattr(model, "outputs", None)
        or structures.is_plain(model)
        or len(model.inputs) != 1
        or len(model.outputs) != 1
    ):
        return model
    else:
        outputs = model.outputs[0]
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return keras.Model(inputs, outputs)


def final_activation(model):
    """Name of the bounding activation that a model is seen to end in, like `"sigmoid"`; or None."""
    return _ending(model)[0]


def ends_in_logits(model):
    """Whether a model does not end in an activation that `logits` would leave out."""
    return final_activation(model) not in _REMOVABLE


def check_outputs(model, attacked=True):
    """Raises `ValueError` for a model whose outputs are not what a classifier needs.

    Args:
        model: A Keras model; what a subclassed one does not say passes.
        attacked: Whether it is to be attacked: then it must also take floating-point images, and
            end in logits or in an activation that `logits` can leave out.
    """
    outputs = getattr(model, "outputs", None)
    if outputs and outputs[0].shape[-1] == 1:
        raise ValueError(
            f"model must have an output for each of at least two classes; {model.name!r} has one "
            "in all (give a binary classifier two, such as the logits 0 and z in place of the "
            "sigmoid of z)"
        )
    if not attacked:
        return
    inputs = getattr(model, "inputs", None)
    if inputs and not tf.as_dtype(inputs[0].dtype).is_floating:
        raise ValueError(
            f"model must take floating-point images to be attacked; the input of {model.name!r} is "
            f"{inputs[0].dtype}, through which no gradient flows (make it keras.Input(..., "
            'dtype="float32") and cast the images to float)'
        )
    activation = final_activation(model)
    if activation in _CONSTANT:
        raise ValueError(
            f"model must end in logits to be attacked; {model.name!r} ends in {activation}, which "
            "is constant where the network is confident (end it in logits, a sigmoid or a softmax)"
        )


def _ending(model):
    """What a functional or sequential model ends in.

    Returns:
        The name of a known activation, and a function that makes the tensor before it; `None`
        twice if there is none, or the model is subclassed.
    """
    outputs = getattr(model, "outputs", None)
    return _ending_of(outputs[0]) if outputs else (None, None)


def _ending_of(tensor):
    history = getattr(tensor, "_keras_history", None)
    nodes = getattr(history.operation, "_inbound_nodes", ()) if history else ()
    if not nodes or not nodes[history.node_index].input_tensors:
        return None, None
    layer, before = history.operation, nodes[history.node_index].input_tensors[0]
    if isinstance(layer, keras.Model):
        if len(getattr(layer, "outputs", None) or ()) != 1:
            return None, None
        return final_activation(layer), lambda: logits(layer)(before)
    activation = getattr(layer, "activation", None)
    alone = isinstance(layer, keras.layers.Activation)
    if isinstance(layer, _INACTIVE) or (alone and activation is keras.activations.linear):
        return _ending_of(before)
    if isinstance(layer, keras.layers.Lambda):
        return _name(layer.function), lambda: before
    if alone or activation is None:
        return _name(activation or layer), lambda: before
    name = _name(activation)
    # A recurrent layer, or one of the user's, may use its activation elsewhere than at its end.
    if name != "softmax" and not isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return None, None
    return name, lambda: WithoutActivation(layer, name=f"{layer.name}_logits")(before)


def _name(activation):
    """The name of a known activation: a function of Keras or TensorFlow, a layer, an operation."""
    if isinstance(activation, keras.layers.ReLU) and activation.max_value is not None:
        return _CAPPED_RELU
    modules = keras.activations, keras.ops, tf.nn, tf.math
    for name in (*_REMOVABLE, *_CONSTANT):
        functions = [getattr(module, name, None) for module in modules]
        # Of keras.ops.hard_sigmoid the operation is a `HardSigmoid`.
        if activation in functions or type(activation).__name__ == name.title().replace("_", ""):
            return name
    return None
