"""Networks, and what can be done with any Keras model."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Frozen": "frozen",
        "PRECISIONS": "frozen",
        "ResNeXtDenoiseAll": "denoising",
        "ResNet": "resnet",
        "ResNetDenoise": "denoising",
        "SmallResNet": "resnet",
        "call": "calling",
        "check_classifier": "contracts",
        "check_evaluation": "overrides",
        "check_outputs": "logits_only",
        "contract": "contracts",
        "convert": "conversion",
        "ends_in_logits": "logits_only",
        "extract": "conversion",
        "final_activation": "logits_only",
        "load": "files",
        "logits": "logits_only",
        "mixtures": "calling",
        "train_only_normalization": "freezing",
        "value_range": "contracts",
    },
)
