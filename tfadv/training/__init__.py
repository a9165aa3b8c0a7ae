"""What a training is made of: the adversarial step, losses, schedules, checkpoints."""

from tfadv.checkpoint_files import Progress
from tfadv.training.adversarial_step import AdversarialStep

__all__ = [
    "AdversarialStep",
    "Progress",
]
