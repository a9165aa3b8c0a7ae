"""Networks, and what can be done with any Keras model."""

from tfadv.models.calling import call, mixtures
from tfadv.models.contracts import check_classifier, check_evaluation, contract, value_range
from tfadv.models.conversion import convert, extract
from tfadv.models.denoising import ResNetDenoise, ResNeXtDenoiseAll
from tfadv.models.files import load
from tfadv.models.freezing import train_only_normalization
from tfadv.models.frozen import PRECISIONS, Frozen
from tfadv.models.logits_only import check_outputs, ends_in_logits, final_activation, logits
from tfadv.models.resnet import ResNet, SmallResNet, StridedSmallResNet

__all__ = [
    "Frozen",
    "PRECISIONS",
    "ResNeXtDenoiseAll",
    "ResNet",
    "ResNetDenoise",
    "SmallResNet",
    "StridedSmallResNet",
    "call",
    "check_classifier",
    "check_evaluation",
    "check_outputs",
    "contract",
    "convert",
    "ends_in_logits",
    "extract",
    "final_activation",
    "load",
    "logits",
    "mixtures",
    "train_only_normalization",
    "value_range",
]
