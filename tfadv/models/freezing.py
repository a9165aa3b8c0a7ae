import keras

_NORMALIZATIONS = (
    keras.layers.BatchNormalization,  # tfadv's and the two branches of a mixture too
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def train_only_normalization(model):
    """Freezes a model but for its normalization layers (Section 4.4).

    Their gamma and beta go on learning and their moving statistics moving; kernels and biases stay
    as they are, also under weight decay. Compile the model after this, as Keras asks of whoever
    changes `trainable`.

    Args:
        model: A Keras model, nested ones included.

    Raises:
        ValueError: If it has no normalization layer with a gamma or beta, or a layer that holds
            weights of its own beside other layers.
    """
    learning = set()
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, _NORMALIZATIONS):
            learning.update(id(variable) for variable in layer.trainable_variables)
        elif next(iter(layer._flatten_layers(include_self=False)), None) is None:
            # Leaves alone: to freeze what holds other layers freezes those too.
            layer.trainable = False
    if not learning:
        raise ValueError(
            f"model must have normalization layers with a gamma or beta; {model.name!r} has none"
        )
    for variable in model.trainable_variables:
        if id(variable) not in learning:
            raise ValueError(
                "model must hold its weights in layers without layers in them; "
                f"received {variable.path!r}"
            )
