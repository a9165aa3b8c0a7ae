"""What a training is made of: the adversarial step, losses, schedules, checkpoints."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "AdversarialStep": "adversarial_step",
    },
)
