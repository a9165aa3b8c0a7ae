"""Attacks: functions of a network's logits and of images in a stated range, and nothing else."""

from tfadv.attacks.apgd import APGD
from tfadv.attacks.attack import Attack, make
from tfadv.attacks.autoattack import AutoAttack
from tfadv.attacks.fab import FAB
from tfadv.attacks.pgd import PGD
from tfadv.attacks.random_draws import random_noise, random_targets
from tfadv.attacks.square import Square
from tfadv.attacks.steps import LOSSES, linf_bounds, project, scale_to_range

__all__ = [
    "APGD",
    "FAB",
    "LOSSES",
    "PGD",
    "Attack",
    "AutoAttack",
    "Square",
    "linf_bounds",
    "make",
    "project",
    "random_noise",
    "random_targets",
    "scale_to_range",
]
