"""Results of evaluations: counts, and the numbers that follow from them."""

import base64
import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the programs refuse a mistake without the time that NumPy's import takes
    import numpy as np
    import numpy.typing as npt

# The normal distribution's 97.5% quantile.
_Z = 1.959963984540054


def attack_name(label: str, num_steps: int | None) -> str:
    """Returns `"PGD-10"` for `"PGD"` and 10 steps; the label alone for an attack without steps."""
    return label if num_steps is None else f"{label}-{num_steps}"


def key(name: str) -> str:
    """Returns the name of an attack as logs and charts spell it: `"pgd10"` for `"PGD-10"`."""
    return re.sub(r"\W", "", name).lower()


def pack(correct_images: "npt.ArrayLike") -> str:
    """Packs which images were classified correctly, booleans `[images]`, into a string."""
    import numpy as np

    return base64.b64encode(np.packbits(np.asarray(correct_images, bool)).tobytes()).decode()


def unpack(packed: str, total: int) -> "np.ndarray":
    """Unpacks a string of `pack`.

    Returns:
        A boolean array `[total]`.

    Raises:
        ValueError: If the string is not that of so many images.
    """
    import numpy as np

    octets = np.frombuffer(base64.b64decode(packed, validate=True), np.uint8)
    if len(octets) != -(-total // 8):
        raise ValueError(f"correct_images of {8 * len(octets)} images, not of {total}")
    return np.unpackbits(octets, count=total).astype(bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one branch for clean images, or for one number of attack steps.

    Args:
        domain: `"adv"` or `"clean"`, the branch of every mixture that was attacked and reported;
            None for a model without a mixture.
        num_steps: Number of steps of the attack, None if it has none; 0 for clean images, which
            have None for all that follows `total`, except the seed.
        correct: Number of images classified correctly (after each restart of an attack).
        total: Number of images.
        hits: Number of images on which the attack succeeded in any restart: classified as the
            target, or, if it is untargeted, misclassified.
        regained: Number of images classified correctly here, but not under the next smaller number
            of steps that was evaluated (for the smallest one: not as clean images).
        attack: Name of the attack, without its number of steps; None, as in older files, is
            `"PGD"`.
        epsilon: In pixels of 255.
        step_size: In pixels of 255, after the step-size rule.
        step_size_rule, targeted, loss, start_from_clean, clip_start, restarts: Settings of the
            attack; None if it has no such setting.
        precision: Precision in which the attack computed.
        seed: With an image's index it determines the image's targets and starts.
        norm: `"l2"`; None, as in older files, is L-infinity. Then epsilon and step size are not in
            pixels of 255, but those of images from 0 to 1.
        remaining: Dictionary, name of each part of an attack of several -> number of images still
            classified correctly after it, in their order; None for other attacks.
        cost: Dictionary, name of each part -> a dictionary of what it cost: `images`, the number
            that it attacked; `passes`, about how many passes forward these took, one back counted
            as two (of the square attack at most, since it stops where it succeeds); and `seconds`,
            of all workers together, before a kill too. Results that differ in it alone are equal.

    Example:

    ```python
    result = tfadv.evaluation.Result(domain=None, num_steps=0, correct=374, total=500)
    low, high = result.interval
    print(f"{result.accuracy:.1%} ({low:.1%} to {high:.1%})")
    ```
    """

    domain: str | None
    num_steps: int | None
    correct: int
    total: int
    hits: int | None = None
    regained: int | None = None
    attack: str | None = None
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
    norm: str | None = None
    remaining: dict | None = None
    cost: dict | None = dataclasses.field(default=None, compare=False)

    @property
    def is_clean(self) -> bool:
        """Whether this is the result for clean images."""
        return self.num_steps == 0

    @property
    def name(self) -> str:
        """`"clean"`, or a name like `"PGD-10"`."""
        return "clean" if self.is_clean else attack_name(self.attack or "PGD", self.num_steps)

    @property
    def key(self) -> str:
        """`"clean"`, or a name like `"pgd10"`, for logs and charts."""
        return key(self.name)

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, from 0 to 1."""
        return self.correct / self.total

    @property
    def success(self) -> float | None:
        """Share of images on which the attack succeeded, from 0 to 1; None without an attack."""
        return None if self.hits is None else self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson score interval `(low, high)` of the accuracy.

        `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, of n images with z = 1.96.
        """
        share, square = self.accuracy, _Z**2 / self.total
        half = _Z * math.sqrt(share * (1 - share) / self.total + square / (4 * self.total))
        low, high = ((share + square / 2 + way * half) / (1 + square) for way in (-1, 1))
        # Rounding could leave out an accuracy of 0 or 1.
        return max(0.0, min(low, share)), min(1.0, max(high, share))

    def as_dict(self) -> dict[str, Any]:
        """Returns all counts, settings and derived numbers as plain values, for JSON."""
        derived = {name: getattr(self, name) for name in ("name", "accuracy", "success")}
        values = {**dataclasses.asdict(self), **derived, "interval": list(self.interval)}
        # Only where they say something: most results are as they were without them.
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in ("norm", "remaining", "cost")
        }
