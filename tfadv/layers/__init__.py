"""Normalization layers, and the table of their names."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "BatchNormalization": "batch_normalization",
        "InputContract": "input_contract",
        "MixtureBatchNormalization": "mixture_batch_normalization",
        "NORMALIZATIONS": "normalizations",
        "normalization": "normalizations",
    },
)
