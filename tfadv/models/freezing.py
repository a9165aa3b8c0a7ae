import keras

from tfadv import keras_internals
from tfadv.layers.normalizations import is_normalization


def train_only_normalization(model: keras.Model) -> None:
    """Freezes all layers of a model except normalization (Section 4.4).

    Their gamma and beta go on learning, and their moving statistics go on moving. Kernels and
    biases stay as they are, also under weight decay. Compile the model after this, as Keras asks
    for after every change of `trainable`.

    Args:
        model: A Keras model. Layers of models nested in it are frozen, too.

    Raises:
        ValueError: If it has no normalization layer with a gamma or beta, or if a layer holds both
            weights of its own and other layers.

    Example:

    ```python
    tfadv.models.train_only_normalization(model)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ```
    """
    learning: set[int] = set()
    for layer in keras_internals.flatten_layers(model, include_self=False):
        if is_normalization(layer):
            learning.update(id(variable) for variable in layer.trainable_variables)
        elif not keras_internals.flatten_layers(layer, include_self=False):
            # Only leaves: freezing a layer freezes all layers inside it.
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
