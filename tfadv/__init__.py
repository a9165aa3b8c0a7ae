"""Adversarial training of image classifiers in Keras and TensorFlow.

The pipeline of "Intriguing properties of adversarial training" (Xie and Yuille, 2020): mixture
batch normalization, running statistics in training, targeted PGD, and deep residual networks.
"""

from tfadv import startup

__version__ = "0.1.0"

# A program checks its flags first, which takes no TensorFlow, and then imports what it needs.
if not startup.is_program():
    startup.check_keras()
    # All of it, so that Keras knows every layer that a saved model may hold.
    from tfadv import (
        attacks,
        callbacks,
        data,
        distributed,
        evaluation,
        inspection,
        layers,
        models,
        training,
    )
    from tfadv.environment import report_environment

__all__ = [
    "attacks",
    "callbacks",
    "data",
    "distributed",
    "evaluation",
    "inspection",
    "layers",
    "models",
    "report_environment",
    "training",
]


def __dir__():
    return [*__all__, "__doc__", "__version__"]
