"""Attacks: functions of a network's logits and of images in a stated range, and nothing else."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "LOSSES": "losses",
        "PGD": "pgd",
        "linf_bounds": "projections",
        "project": "projections",
        "random_targets": "targets",
    },
)
