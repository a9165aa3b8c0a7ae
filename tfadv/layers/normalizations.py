import pkgutil

import keras

from tfadv.tables import normalizations

# All of them are imported now, and so registered, which lets Keras load any saved model.
_LAYERS = {
    name: pkgutil.resolve_name(layer) for name, (layer, _) in normalizations.NORMALIZATIONS.items()
}


def normalization(norm: str, channels: int, **kwargs) -> keras.Layer:
    """Makes the normalization layer of a name.

    Args:
        norm: One of `"bn"`, `"mbn"`, `"gn"`, `"ln"`, `"in"`: batch, mixture batch, group (32
            groups), layer and instance normalization.
        channels: Integer, the number of channels that the layer will see.
        **kwargs: Arguments of the layer: `name`, `gamma_initializer`, `beta_initializer`, ...

    Returns:
        A Keras layer.

    Raises:
        ValueError: If `norm` is unknown.
    """
    normalizations.check(norm)
    _, arguments = normalizations.NORMALIZATIONS[norm]
    return _LAYERS[norm](**arguments(channels), **kwargs)
