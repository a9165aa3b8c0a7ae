import pkgutil
from typing import Any

import keras

from tfadv.tables import normalizations

# Importing all of them registers them with Keras, which can then load any saved model.
_LAYERS = {
    name: pkgutil.resolve_name(layer) for name, (layer, _) in normalizations.NORMALIZATIONS.items()
}


_KINDS = (
    *_LAYERS.values(),
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def is_normalization(layer: keras.Layer) -> bool:
    """Returns whether a layer is a normalization: Keras's, or one of the table."""
    return isinstance(layer, _KINDS)


def normalization(norm: str, channels: int, **kwargs: Any) -> keras.Layer:
    """Creates the normalization layer that a name stands for.

    Args:
        norm: A name in `tfadv.tables.normalizations`: `"bn"`, `"mbn"`, `"gn"`, `"ln"`, `"in"` for
            batch, mixture batch, group (32 groups), layer and instance normalization.
        channels: Integer, number of channels of the layer's input.
        **kwargs: Arguments of the layer: `name`, `gamma_initializer`, `beta_initializer`, ...

    Returns:
        A Keras layer.

    Raises:
        ValueError: If `norm` is unknown.

    Example:

    ```python
    layer = tfadv.layers.normalization("mbn", channels=64, name="norm1")
    ```
    """
    normalizations.check(norm)
    _, arguments = normalizations.NORMALIZATIONS[norm]
    return _LAYERS[norm](**arguments(channels), **kwargs)
