"""PGD that chooses its step sizes itself (Croce and Hein, ICML 2020)."""

import numpy as np
import tensorflow as tf

from tfadv.arguments import choice, integer
from tfadv.attacks import random_draws, steps
from tfadv.attacks.untargeted import UntargetedAttack

# Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
# parameter-free attacks", arXiv 2003.01690, Section 3.
_MOMENTUM = 0.75
_IMPROVED = 0.75  # share of the steps between two checkpoints that must improve the loss

# Name of the loss -> what results call the attack, and the fewest classes that it needs.
_LABELS = {
    "cross_entropy": ("APGD-CE", 2),
    "dlr": ("APGD-DLR", 3),
    "targeted_dlr": ("APGD-T", 4),
}


class APGD(UntargetedAttack):
    """Auto-PGD, an attack without a step size.

    It starts on the surface of the ball, at uniform noise (for L2, at a normal direction) that is
    divided by its norm and multiplied by epsilon. Each step is one of PGD with momentum,

    `z = project(x_k + s * direction(gradient))`,
    `x_{k+1} = project(x_k + 0.75 * (z - x_k) + 0.25 * (x_k - x_{k-1}))`,

    first with `s = 2 * epsilon`. At checkpoints, after 22% of the steps and then at distances that
    shrink by 3% of the steps down to 6%, an image halves its step size and goes back to its best
    point if fewer than 75% of the steps since the last checkpoint improved the loss, or if neither
    the best loss nor the step size has changed since then.

    An image's result is the point of the highest loss among those that fool the network; among all
    that were visited if none does. An image that is misclassified already is returned as it is.

    Args:
        epsilon: Largest change: of a pixel, in pixels of 255, if `norm` is `"linf"`; if it is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        num_steps: Number of steps. Each costs one pass forward and one back.
        loss: What it ascends: `"cross_entropy"`; `"dlr"`, the difference of logits ratio; or
            `"targeted_dlr"`, which aims at one class after the other.
        num_targets: Number of classes to aim at with `"targeted_dlr"`: those with the largest
            logits for the image itself besides its label, or all others if there are fewer.
        restarts: Number of attacks on each image, and with `"targeted_dlr"` on each target.
        norm: `"linf"` or `"l2"`.
        gradient_samples: Number of passes over which each gradient is averaged; above 1 only for
            networks that are random.
        jit_compile: Whether XLA compiles the loop of steps. None: only where TensorFlow sees a GPU.

    Example:

    ```python
    attack = tfadv.attacks.APGD(epsilon=8, num_steps=10, loss="targeted_dlr", num_targets=2)
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    num_steps: int
    loss: str
    _broken = "the gradient of the loss to the images"

    def __init__(
        self,
        epsilon: float = 16.0,
        num_steps: int = 100,
        loss: str = "cross_entropy",
        num_targets: int | None = None,
        restarts: int = 1,
        norm: str = "linf",
        gradient_samples: int = 1,
        jit_compile: bool | None = None,
    ):
        super().__init__(epsilon, norm, restarts, jit_compile)
        self.num_steps = integer("num_steps", num_steps, 1)
        self.loss = choice("loss", loss, _LABELS)
        if (num_targets is not None) and loss != "targeted_dlr":
            raise ValueError(
                f'num_targets must be None unless loss="targeted_dlr"; received {num_targets!r}'
            )
        if loss == "targeted_dlr":
            num_targets = integer("num_targets", 9 if num_targets is None else num_targets, 1)
        self.num_targets = num_targets
        self.gradient_samples = integer("gradient_samples", gradient_samples, 1)

    @property
    def label(self) -> str:
        return _LABELS[self.loss][0]

    def _passes(self) -> int:
        return super()._passes() * self.gradient_samples

    def runs(self, num_classes: int) -> int:
        fewest = _LABELS[self.loss][1]
        if num_classes < fewest:
            raise ValueError(
                f"loss={self.loss!r} needs at least {fewest} classes; received {num_classes} "
                '(use loss="cross_entropy", tfadv.attacks.FAB and tfadv.attacks.Square; in '
                "tfadv.evaluate the attacks apgd_ce, fab_targeted and square)"
            )
        return super().runs(num_classes)

    def _search(self, logits_fn, ball, labels, targets, restart, key, value_range):
        """Takes all steps of one restart."""
        logits_fn = steps.prepared(logits_fn)
        start = random_draws.random_direction(ball.images, key, ball.norm) * ball.radius
        start = tf.clip_by_value(ball.images + start, *value_range)

        def loop(start, images, labels, targets):
            around = self._ball(images, value_range)
            return self._steps(logits_fn, start, around, labels, targets)

        return self._loop(loop)(start, ball.images, labels, labels if targets is None else targets)

    def _steps(self, logits_fn, start, ball, labels, targets):
        def evaluate(points):
            """The gradient, the loss and the logits at some points, in one pass."""
            slope, losses, logits, looks = steps.value_and_gradient(
                logits_fn, points, lambda logits: self._loss(logits, labels, targets)
            )
            fooled = tf.argmax(logits, axis=-1, output_type=labels.dtype) != labels
            return slope, losses, fooled, looks, ~tf.reduce_any(tf.math.is_nan(slope))

        def averaged(points):
            slope, *outcome, finite = evaluate(points)

            def add(done, slope, losses, fooled, looks, finite):
                another, losses, fooled, now, ok = evaluate(points)
                return done + 1, slope + another, losses, fooled, looks & now, finite & ok

            if self.gradient_samples > 1:
                _, slope, *outcome, finite = tf.while_loop(
                    lambda done, *_: done < self.gradient_samples,
                    add,
                    (tf.constant(1), slope, *outcome, finite),
                    parallel_iterations=1,
                )
            return slope, *outcome, finite

        def wide(mask):
            return tf.reshape(mask, [-1] + [1] * (start.shape.rank - 1))

        def select(mask, new, old):
            """`new` for the images of the mask, else `old`, for each pair of tensors."""
            return [
                tf.where(wide(mask) if a.shape.rank > 1 else mask, a, b)
                for a, b in zip(new, old, strict=True)
            ]

        lengths = np.diff(checkpoints(self.num_steps), prepend=0)
        is_checkpoint = np.zeros(self.num_steps, bool)
        needed = np.zeros(self.num_steps, np.float32)
        is_checkpoint[np.cumsum(lengths) - 1] = True
        needed[np.cumsum(lengths) - 1] = _IMPROVED * lengths
        is_checkpoint, needed = tf.constant(is_checkpoint), tf.constant(needed)

        def step(done, previous, current, best, kept, kept_fooled, size, improved, last, ok):
            points, slope, losses = current
            moved = ball.project(points + wide(size) * ball.ascent(slope))
            inertia = tf.where(done > 0, _MOMENTUM, 1.0)
            moved = ball.project(
                points + inertia * (moved - points) + (1 - inertia) * (points - previous)
            )
            slope, new_losses, fooled, looks, finite = averaged(moved)
            ok = ok[0] & looks, ok[1] & finite
            improved += tf.cast(new_losses > losses, tf.float32)
            previous, current = points, [moved, slope, new_losses]
            better = (fooled & ~kept_fooled) | ((fooled == kept_fooled) & (new_losses > kept[1]))
            kept = select(better, [moved, new_losses], kept)
            best = select(new_losses > best[2], current, best)

            # At a checkpoint; `last` are the best loss at the last one and whether it halved.
            checkpoint = tf.gather(is_checkpoint, done)
            halve = (improved < tf.gather(needed, done)) | (~last[1] & (best[2] <= last[0]))
            halve &= checkpoint
            size = tf.where(halve, size / 2, size)
            current = select(halve, best, current)
            improved = tf.where(checkpoint, 0.0, improved)
            last = tf.where(checkpoint, best[2], last[0]), tf.where(checkpoint, halve, last[1])
            kept_fooled |= fooled
            return done + 1, previous, current, best, kept, kept_fooled, size, improved, last, ok

        slope, losses, fooled, looks, finite = averaged(start)
        nothing = tf.zeros_like(losses)
        current = [start, slope, losses]
        state = (
            tf.constant(0),
            start,
            current,
            list(current),
            [start, losses],
            fooled,
            nothing + 2 * ball.radius,
            nothing,
            (losses, nothing > 0),
            (looks, finite),
        )
        state = tf.while_loop(
            lambda done, *_: done < self.num_steps, step, state, parallel_iterations=1
        )
        return state[4][0], *state[-1]

    def _loss(self, logits, labels, targets):
        if self.loss == "targeted_dlr":
            return steps.targeted_dlr(logits, labels, targets)
        return {"cross_entropy": steps.cross_entropy, "dlr": steps.dlr}[self.loss](logits, labels)


def checkpoints(num_steps: int) -> list[int]:
    """Returns the numbers of steps after which APGD looks back: 22, 41, 57, ... of 100.

    `w_j = ceil(p_j * num_steps)` with `p_1 = 0.22` and `p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
    0.06)`.
    """
    percents = [0, 22]
    while percents[-1] < 100:
        percents.append(percents[-1] + max(percents[-1] - percents[-2] - 3, 6))
    # In whole numbers, since 0.41 * 100 is above 41 in floating point.
    return sorted({-(-percent * num_steps // 100) for percent in percents[1:] if percent <= 100})
