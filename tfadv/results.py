"""What was counted, and what follows from the counts."""

import dataclasses
import math

# The normal distribution's 97.5% quantile.
_Z = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One row of an evaluation: clean images, or one number of attack steps, through one branch.

    Args:
        domain: `"adv"` or `"clean"`, the branch of every mixture that was attacked and reported;
            None for a model without a mixture.
        num_steps: Steps of the attack; 0 for clean images, where what describes an attack is None.
        correct: Images classified as their label (of an attack: after each of its restarts).
        total: All images.
        hits: Images on which the attack succeeded, in any restart: classified as the target, or,
            if it is untargeted, misclassified.
        regained: Images classified right here but not under the next smaller number of steps that
            was evaluated (of the smallest: not as clean images).
        epsilon: In pixels of 255.
        step_size: In pixels of 255, after the step-size rule.
        step_size_rule, targeted, loss, start_from_clean, clip_start, restarts: Of the attack.
        precision: What the network computed in while it was attacked.
        seed: With an image's index it keys the image's targets and starts.
    """

    domain: str | None
    num_steps: int
    correct: int
    total: int
    hits: int | None = None
    regained: int | None = None
    epsilon: float | None = None
    step_size: float | None = None
    step_size_rule: str | None = None
    targeted: bool | None = None
    loss: str | None = None
    start_from_clean: float | None = None
    clip_start: bool | None = None
    restarts: int | None = None
    precision: str | None = None
    seed: int = 0

    @property
    def name(self):
        """`"clean"`, or like `"PGD-10"`."""
        return f"PGD-{self.num_steps}" if self.num_steps else "clean"

    @property
    def key(self):
        """`"clean"`, or like `"pgd10"`, for names of logs and charts."""
        return f"pgd{self.num_steps}" if self.num_steps else "clean"

    @property
    def accuracy(self):
        """The share of images classified as their label, from 0 to 1."""
        return self.correct / self.total

    @property
    def success(self):
        """The share of images on which the attack succeeded, from 0 to 1; None without one."""
        return None if self.hits is None else self.hits / self.total

    @property
    def interval(self):
        """The 95% Wilson score interval `(low, high)` of the accuracy.

        `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, of n images with z = 1.96.
        """
        share, square = self.accuracy, _Z**2 / self.total
        half = _Z * math.sqrt(share * (1 - share) / self.total + square / (4 * self.total))
        low, high = ((share + square / 2 + way * half) / (1 + square) for way in (-1, 1))
        # Rounding would otherwise leave out the accuracy itself where it is 0 or 1.
        return max(0.0, min(low, share)), min(1.0, max(high, share))

    def as_dict(self):
        """All of it as plain values, for JSON."""
        derived = {name: getattr(self, name) for name in ("name", "accuracy", "success")}
        return {**dataclasses.asdict(self), **derived, "interval": list(self.interval)}
