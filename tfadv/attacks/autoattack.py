"""AutoAttack, the ensemble by which robust accuracy is compared (Croce and Hein, ICML 2020)."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfadv.arguments import choice
from tfadv.attacks import checks, steps
from tfadv.attacks.apgd import APGD
from tfadv.attacks.attack import Attack
from tfadv.attacks.fab import FAB
from tfadv.attacks.square import Square
from tfadv.attacks.untargeted import UntargetedAttack

# Name of the version -> its attacks, as functions of the settings that they share, in the order of
# the authors' implementation.
_VERSIONS: dict[str, tuple[Callable[..., Attack], ...]] = {
    "standard": (
        lambda **shared: APGD(num_steps=100, **shared),
        lambda **shared: APGD(num_steps=100, loss="targeted_dlr", num_targets=9, **shared),
        lambda **shared: FAB(num_steps=100, num_targets=9, **shared),
        lambda **shared: Square(num_queries=5000, p=0.8, **shared),
    ),
    "plus": (
        lambda **shared: APGD(num_steps=100, restarts=5, **shared),
        lambda **shared: APGD(num_steps=100, loss="dlr", restarts=5, **shared),
        lambda **shared: FAB(num_steps=100, num_targets=None, restarts=5, **shared),
        lambda **shared: Square(num_queries=5000, p=0.8, **shared),
        lambda **shared: APGD(num_steps=100, loss="targeted_dlr", num_targets=9, **shared),
        lambda **shared: FAB(num_steps=100, num_targets=9, **shared),
    ),
    "rand": (
        lambda **shared: APGD(num_steps=100, gradient_samples=20, **shared),
        lambda **shared: APGD(num_steps=100, loss="dlr", gradient_samples=20, **shared),
    ),
}


class AutoAttack(UntargetedAttack):
    """AutoAttack: several attacks, each on the images that those before it left right.

    - `"standard"`: APGD with cross entropy; APGD with the targeted difference of logits ratio, nine
      targets; FAB, nine targets; the square attack, 5,000 queries. 100 steps where there are steps.
    - `"plus"`: APGD with cross entropy and with the difference of logits ratio, and untargeted FAB,
      five restarts each; the square attack; the targeted APGD and FAB.
    - `"rand"`, for networks that are random: APGD with cross entropy and with the difference of
      logits ratio, each gradient the mean of 20 passes.

    With fewer than ten classes there are as many targets as wrong classes. `tfadv.evaluation` drops
    an image as soon as one attack has fooled the network; called as a function, each part attacks
    the whole batch.

    Args:
        epsilon: Largest change: of a pixel, in pixels of 255, if `norm` is `"linf"`; if it is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        version: `"standard"`, `"plus"` or `"rand"`.
        norm: `"linf"` or `"l2"`.
        jit_compile: Whether XLA compiles the loops. None: only where TensorFlow sees a GPU.

    Example:

    ```python
    attack = tfadv.attacks.AutoAttack(epsilon=4)
    print([part.label for part in attack.members])  # ['APGD-CE', 'APGD-T', 'FAB-T', 'Square']
    ```
    """

    _broken = "the gradient of a loss to the images, or a logit,"

    def __init__(
        self,
        epsilon: float = 16.0,
        version: str = "standard",
        norm: str = "linf",
        jit_compile: bool | None = None,
    ):
        super().__init__(epsilon, norm, jit_compile=jit_compile)
        self.version = choice("version", version, _VERSIONS)
        shared = {"epsilon": epsilon, "norm": norm, "jit_compile": jit_compile}
        self.members = tuple(part(**shared) for part in _VERSIONS[version])

    @property
    def label(self) -> str:
        return "AutoAttack" if self.version == "standard" else f"AutoAttack-{self.version}"

    def runs(self, num_classes: int) -> int:
        """Returns 1, after each part has checked the number of classes."""
        for part in self.members:
            part.runs(num_classes)
        return 1

    def _run(
        self, logits_fn: Any, images: Any, labels: Any, goals: Any, seed: Any, num_classes: Any,
        limits: Any, run: Any,
    ):  # fmt: skip
        logits_fn = steps.prepared(logits_fn)

        def right(images):
            logits, _ = checks.logits(logits_fn(images), images, num_classes)
            return tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels

        adversarial, looks, finite = images, tf.constant([True, True]), tf.constant(True)
        for part in self.members:

            def attacked(part=part):
                new, _, looks, finite = part._attack(
                    logits_fn, images, labels, goals, seed, num_classes, limits
                )
                return new, looks, finite

            left = right(adversarial)
            new, now, ok = tf.cond(
                tf.reduce_any(left),
                attacked,
                lambda: (images, tf.constant([True, True]), tf.constant(True)),
            )
            wide = tf.reshape(left, [-1] + [1] * (images.shape.rank - 1))
            adversarial = tf.where(wide, new, adversarial)
            looks, finite = looks & now, finite & ok
        looks &= tf.size(images) > 0
        return adversarial, labels, looks, finite
