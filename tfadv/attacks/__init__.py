"""Attacks: functions of a network's logits and of images in a stated range, and nothing else."""

from tfadv.attacks.losses import LOSSES
from tfadv.attacks.pgd import PGD
from tfadv.attacks.projections import linf_bounds, project
from tfadv.attacks.targets import random_targets

__all__ = [
    "LOSSES",
    "PGD",
    "linf_bounds",
    "project",
    "random_targets",
]
