"""The adversarial step and its loss, learning rate schedules, and checkpoints."""

from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints
from tfadv.training.adversarial_step import AdversarialStep
from tfadv.training.agreement import TrainingError
from tfadv.training.schedules import WarmupExponential, WarmupSteps

__all__ = [
    "AdversarialStep",
    "Progress",
    "TrainingError",
    "WarmupExponential",
    "WarmupSteps",
    "checkpoints",
]
