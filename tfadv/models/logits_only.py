from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.models import structures

# Leaving these out changes no prediction: they increase in every logit or, as the softmax does,
# keep the order of the logits. All of them are flat where a network is confident.
_REMOVABLE = ("softmax", "sigmoid", "log_sigmoid", "tanh", "softsign")
# These are constant from some value on, where they make equal what their inputs tell apart.
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
    """Applies a layer without its activation, with the variables of that layer.

    The layer itself is not changed, so a model that holds it can be called at the same time.

    Args:
        layer: A Keras layer that ends in its `activation`, such as `keras.layers.Dense`.

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer returns, before its activation.

    Example:

    ```python
    probabilities = keras.layers.Dense(10, activation="softmax")
    logits = tfadv.models.logits_only.WithoutActivation(probabilities)
    ```
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any):
        super().__init__(**{"dtype": layer.dtype_policy, **kwargs})
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        # Made for each call, since the layer may change between two: by `quantize`, for example.
        return keras_internals.twin(self.layer, activation=keras.activations.linear)(inputs)

    def get_config(self) -> dict:
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config: dict) -> "WithoutActivation":
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


def logits(model: keras.Model) -> keras.Model:
    """Returns the part of a classifier up to its logits.

    An attack needs logits. The gradient of a confident network is zero in float32 through a
    softmax, in which the models of `keras.applications` end, for example, and it is misleading
    through a sigmoid or tanh. Such an activation is left out, whether it belongs to the last layer,
    is a layer of its own or an operation, or ends a model nested in this one. The predicted classes
    stay the same.

    Args:
        model: A Keras model with one output `[batch, classes]`.

    Returns:
        If the model ends in a softmax, sigmoid, log-sigmoid, tanh or softsign, a functional model
        that shares its layers. So, too, if a functional model takes or returns a dictionary or list
        of one tensor: the new one takes and returns the tensor. Otherwise the model itself. (An
        activation inside a subclassed model cannot be seen. Attacks recognize probabilities and
        refuse them, and an evaluation doubts other bounded outputs.)

    Example:

    ```python
    classifier = keras.applications.ResNet50(weights=None)
    network = tfadv.models.logits(classifier)
    ```
    """
    name, make = _ending(model)
    if make is not None and name in _REMOVABLE:
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


def final_activation(model: keras.Model) -> str | None:
    """Returns the name of the bounded activation that a model ends in, like `"sigmoid"`; or None.

    Only what the model's graph shows is known: None of a subclassed model.
    """
    return _ending(model)[0]


def ends_in_logits(model: keras.Model) -> bool:
    """Returns whether a model does not end in an activation that `logits` would leave out."""
    return final_activation(model) not in _REMOVABLE


def check_outputs(model: keras.Model, attacked: bool = True) -> None:
    """Checks that a model's outputs are those of a classifier.

    Args:
        model: A Keras model; what a subclassed one does not declare passes.
        attacked: Whether it will be attacked: then it must also take floating-point images, and
            end in logits or in an activation that `logits` can leave out.

    Raises:
        ValueError: If they are not.
    """
    outputs = getattr(model, "outputs", None)
    if outputs and outputs[0].shape[-1] == 1:
        raise ValueError(
            f"model must have an output for each of at least two classes; {model.name!r} has only "
            "one (give a binary classifier two, such as the logits 0 and z instead of the sigmoid "
            "of z)"
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


def _ending(model) -> tuple[str | None, Callable | None]:
    """Finds what a functional or sequential model ends in.

    Returns:
        The name of a known activation, and a function that makes the tensor before it; `None`
        twice if there is none, or the model is subclassed.
    """
    outputs = getattr(model, "outputs", None)
    return _ending_of(outputs[0]) if outputs else (None, None)


def _ending_of(tensor):
    node = keras_internals.producer(tensor)
    if node is None:
        return None, None
    layer, before = node.operation, node.input_tensors[0]
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
    """Returns the name of a known activation, which may be a function, a layer or an operation."""
    if isinstance(activation, keras.layers.ReLU) and activation.max_value is not None:
        return _CAPPED_RELU
    modules = keras.activations, keras.ops, tf.nn, tf.math
    for name in (*_REMOVABLE, *_CONSTANT):
        functions = [getattr(module, name, None) for module in modules]
        # keras.ops.hard_sigmoid, for example, becomes an operation `HardSigmoid`.
        if activation in functions or type(activation).__name__ == name.title().replace("_", ""):
            return name
    return None
