"""The table of normalizations: a new one is one file beside this one, and one line here."""

import importlib
import math


def _layer(module, name):
    """A layer of ours, imported when it is made: reading the table needs no TensorFlow."""

    def make(channels, **kwargs):
        return getattr(importlib.import_module(f"tfadv.layers.{module}"), name)(**kwargs)

    return make


def _grouped(groups):
    """Group normalization with the number of groups that fits the channels."""
    make = _layer("group_normalization", "GroupNormalization")
    return lambda channels, **options: make(
        channels, groups=groups(channels), epsilon=1e-5, **options
    )


# Group normalization: 32 groups (Wu and He, 2018), or as many as leave two channels in each, since
# a group of one channel would be instance normalization. Layer normalization of a convolutional
# network normalizes over height, width and channels with a gamma per channel, which is one group.
NORMALIZATIONS = {
    "bn": _layer("batch_normalization", "BatchNormalization"),
    "mbn": _layer("mixture_batch_normalization", "MixtureBatchNormalization"),
    "gn": _grouped(lambda channels: math.gcd(32, max(channels // 2, 1))),
    "ln": _grouped(lambda channels: 1),
    "in": _grouped(lambda channels: channels),
}


def check(norm):
    """Raises `ValueError` unless `norm` is in the table."""
    if norm not in NORMALIZATIONS:
        raise ValueError(f"norm must be one of {', '.join(NORMALIZATIONS)}; received {norm!r}")


def normalization(norm, channels, **kwargs):
    """Makes the normalization layer of a name.

    Args:
        norm: One of `"bn"`, `"mbn"`, `"gn"`, `"ln"`, `"in"`: batch, mixture batch, group (32
            groups), layer and instance normalization.
        channels: Integer, how many channels the layer will see.
        **kwargs: Of the layer: `name`, `gamma_initializer`, `beta_initializer`, ...

    Returns:
        A Keras layer.

    Raises:
        ValueError: For an unknown name.
    """
    check(norm)
    return NORMALIZATIONS[norm](channels, **kwargs)
