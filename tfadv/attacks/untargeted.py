"""The base of attacks that look for any error of the network: APGD, FAB, Square, AutoAttack."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfadv.arguments import choice, integer
from tfadv.attacks import checks, steps
from tfadv.attacks.attack import Attack


class UntargetedAttack(Attack):
    """Base class of attacks that only need the network to err, and spare what is misclassified.

    A subclass implements `_search`. Some aim at one class after the other: each run of theirs is
    told the class, by its rank among the other classes in the logits of the image itself.

    Args:
        epsilon: Largest change: of a pixel, in pixels of 255, if `norm` is `"linf"`; if it is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        norm: `"linf"` or `"l2"`.
        restarts: Number of attacks on each image (and each target), with a new start each.
        jit_compile: Whether XLA compiles the loop of steps. None: only where TensorFlow sees a GPU.
    """

    restarts: int
    spares_misclassified = True
    takes_parts = True
    # Number of classes that it aims at, one run each; None if it aims at none.
    num_targets: int | None = None

    def __init__(
        self,
        epsilon: float = 16.0,
        norm: str = "linf",
        restarts: int = 1,
        jit_compile: bool | None = None,
    ):
        self.norm = choice("norm", norm, steps.NORMS)
        super().__init__(epsilon)
        self.restarts = integer("restarts", restarts, 1)
        self.jit_compile = choice("jit_compile", jit_compile, (None, True, False))

    def _search(
        self,
        logits_fn: Callable,
        ball: steps.Ball,
        labels: tf.Tensor,
        targets: tf.Tensor | None,
        restart: Any,
        key: tf.Tensor,
        value_range: tuple[float, float],
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Looks for adversarial images; subclasses implement it.

        Args:
            logits_fn: Function, float32 images -> logits `[batch, classes]`.
            ball: A `tfadv.attacks.steps.Ball` around the images.
            labels: Integers `[batch]`.
            targets: Integers `[batch]`, the classes to aim at; None if `num_targets` is.
            restart: Number of the restart: an integer, or a scalar tensor.
            key: int64 `[2]`, `[parts, 2]` or `[batch, 2]`, of this run.
            value_range: Two floats.

        Returns:
            Float32 images; a boolean `[2]`, what all logits looked like (`checks.logits`); and
            whether no gradient was NaN.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _search")

    def objective(self, logits: tf.Tensor, goals: tf.Tensor) -> tf.Tensor:
        """Computes the margin, by which results are compared, whatever loss was followed."""
        return steps.margin(logits, goals)

    def runs(self, num_classes: int) -> int:
        """Returns the number of its runs on each image: of its targets, times its restarts."""
        targets = 1 if self.num_targets is None else min(self.num_targets, num_classes - 1)
        return targets * self.restarts

    def _once(self, logits_fn, images, labels, goals, key, num_classes, limits, run):
        logits, looks = checks.logits(logits_fn(images), images, num_classes)
        predicted = tf.argmax(logits, axis=-1, output_type=labels.dtype)
        targets = None
        if self.num_targets is not None:
            targets = _class_by_rank(logits, labels, run // self.restarts)
        # In the range, from which rounding may have moved the images.
        ball = self._ball(images, limits)
        adversarial, later, finite = self._search(
            logits_fn, ball, labels, targets, run % self.restarts, key, limits
        )
        right = tf.reshape(predicted == labels, [-1] + [1] * (images.shape.rank - 1))
        adversarial = tf.where(right, ball.project(adversarial), images)
        adversarial = tf.stop_gradient(tf.ensure_shape(adversarial, images.shape))
        return adversarial, labels, looks & later & (tf.size(images) > 0), finite


def _class_by_rank(logits, labels, rank):
    """The class with the largest logit of all but the label (rank 0), or the next (1), ..."""
    label = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(label, -float("inf"), logits)
    order = tf.argsort(others, axis=-1, direction="DESCENDING", stable=True)
    return tf.cast(tf.gather(order, rank, axis=1), labels.dtype)
