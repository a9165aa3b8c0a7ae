"""Keras layers: normalizations, the input contract, and what ResNeXt and denoising need."""

from tfadv.layers.batch_normalization import BatchNormalization
from tfadv.layers.group_normalization import GroupNormalization
from tfadv.layers.grouped_conv import GroupedConv2D
from tfadv.layers.input_contract import InputContract
from tfadv.layers.mixture_batch_normalization import MixtureBatchNormalization
from tfadv.layers.non_local_means import NonLocalMeans
from tfadv.layers.normalizations import normalization

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "GroupedConv2D",
    "InputContract",
    "MixtureBatchNormalization",
    "NonLocalMeans",
    "normalization",
]
