"""The table of normalizations. A new one is one file in `tfadv/layers/` and one line here."""

import math


def _grouped(groups):
    return lambda channels: {"groups": groups(channels), "epsilon": 1e-5}


def _nothing(channels):
    return {}


# name -> (layer, function of the number of channels that returns its arguments)
#
# Group normalization has 32 groups (Wu and He, 2018), or as many as leave two channels in each,
# since a group of one channel would be instance normalization. Layer normalization of a
# convolutional network normalizes over height, width and channels, which is one group.
NORMALIZATIONS = {
    "bn": ("tfadv.layers.batch_normalization:BatchNormalization", _nothing),
    "mbn": ("tfadv.layers.mixture_batch_normalization:MixtureBatchNormalization", _nothing),
    "gn": (
        "tfadv.layers.group_normalization:GroupNormalization",
        _grouped(lambda channels: math.gcd(32, max(channels // 2, 1))),
    ),
    "ln": ("tfadv.layers.group_normalization:GroupNormalization", _grouped(lambda channels: 1)),
    "in": (
        "tfadv.layers.group_normalization:GroupNormalization",
        _grouped(lambda channels: channels),
    ),
}


def check(norm: str) -> None:
    """Raises `ValueError` unless `norm` is in the table."""
    if norm not in NORMALIZATIONS:
        raise ValueError(f"norm must be one of {', '.join(NORMALIZATIONS)}; received {norm!r}")
