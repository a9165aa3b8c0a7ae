"""Keras callbacks: adversarial training and what belongs to it."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "AdversarialTraining": "adversarial_training",
    },
)
