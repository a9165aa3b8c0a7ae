"""Layers of our own, and the table of normalizations."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "BatchNormalization": "batch_normalization",
        "GroupNormalization": "group_normalization",
        "GroupedConv2D": "grouped_conv",
        "InputContract": "input_contract",
        "MixtureBatchNormalization": "mixture_batch_normalization",
        "NORMALIZATIONS": "normalizations",
        "NonLocalMeans": "non_local_means",
        "normalization": "normalizations",
    },
)
