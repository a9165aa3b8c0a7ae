"""Projected gradient descent on the image, in an L-infinity or L2 ball."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfadv.arguments import choice, integer, number, positive, warn_of_fractions
from tfadv.attacks import checks, random_draws, steps
from tfadv.attacks.attack import Attack
from tfadv.tables import attacks as table


class PGD(Attack):
    """The PGD attacker of the paper and its pipeline; targeted by default.

    `x' <- clip(x' - s * sign(d loss(f(x'), target) / dx'), max(x - eps, low), min(x + eps, high))`

    starting from `x + U(-eps, eps)`, which is not clipped to the pixel range before the first
    gradient (pipeline) unless `clip_start` is true. An untargeted attack ascends the loss to the
    label instead. With `norm="l2"` the gradient is divided by its length, an image is projected
    onto the L2 ball, and the start lies on its surface, in a direction drawn at random.

    Args:
        epsilon: Largest change of a pixel, in pixels of 255 (16 in the paper); if `norm` is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        step_size: Size of one iteration, in the unit of epsilon (1 in the paper).
        num_steps: Number of iterations (30 in the paper's training, up to 2000 in its evaluation).
            With 0 the result is the start, clipped to the ball and the range: at epsilon 0 the
            image.
        targeted: Whether to aim at a wrong label drawn at random, or away from the true one.
        loss: `"cross_entropy"` (the paper; without label smoothing) or `"margin"`.
        start_from_clean: Probability that the start is the image itself (0.2 in the paper's
            training, 0 in its evaluation). With one key for the batch this is one draw for the
            whole batch (pipeline); with a key per image it is one draw per image, since such a
            batch has no key of its own; with a key per part, one per part.
        step_size_rule: `"pipeline"` raises the step size to `epsilon / num_steps` where that is
            larger, so that the whole ball can be crossed: 1.6 for PGD-10, 3.2 for PGD-5.
            `"fixed"` takes it as given (the paper's footnote 6: 2 for PGD-10, 4 for PGD-5).
        restarts: Number of attacks with a new start and a new target each. Every image keeps its
            strongest result: one that hits its target, else one that is misclassified, else the one
            with the best loss.
        jit_compile: Whether XLA compiles the loop of steps, and nothing else. None: only where
            TensorFlow sees a GPU (on a CPU XLA was ten times slower).
        clip_start: Whether a random start is clipped to the pixel range before the first gradient,
            as in other libraries. The pipeline does not clip it, which makes an attack of few steps
            a little weaker on images with many pixels at the ends of the range, such as digits.
        norm: `"linf"` (the paper) or `"l2"`.

    Example:

    ```python
    attack = tfadv.attacks.PGD(epsilon=8, step_size=2, num_steps=10)
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0))
    stronger = attack.replace(num_steps=100, restarts=5)
    ```
    """

    num_steps: int
    loss: str
    label = "PGD"
    takes_parts = True
    _broken = "the gradient of the loss to the images"

    def __init__(
        self,
        epsilon: float = 16.0,
        step_size: float = 1.0,
        num_steps: int = 30,
        targeted: bool = True,
        loss: str = "cross_entropy",
        start_from_clean: float = 0.0,
        step_size_rule: str = "pipeline",
        restarts: int = 1,
        jit_compile: bool | None = None,
        clip_start: bool = False,
        norm: str = "linf",
    ):
        self.norm = choice("norm", norm, steps.NORMS)
        super().__init__(epsilon, targeted)
        self.step_size = positive("step_size", step_size, "pixels of 255")
        self.num_steps = integer("num_steps", num_steps, 0)
        self.loss = choice("loss", loss, steps.LOSSES)
        self.start_from_clean = number("start_from_clean", start_from_clean, 0, 1)
        self.step_size_rule = choice("step_size_rule", step_size_rule, ("pipeline", "fixed"))
        self.restarts = integer("restarts", restarts, 1)
        self.jit_compile = choice("jit_compile", jit_compile, (None, True, False))
        self.clip_start = choice("clip_start", clip_start, (False, True))
        if norm == "linf":
            warn_of_fractions(self.epsilon, self.step_size)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Journals and results from before there was a choice have no norm.
        if config.get("norm") == "linf":
            del config["norm"]
        return config

    @property
    def effective_step_size(self) -> float:
        """The step size after `step_size_rule`, in pixels of 255."""
        return table.effective_step_size(
            self.step_size_rule, self.step_size, self.epsilon, self.num_steps
        )

    def objective(self, logits: tf.Tensor, goals: tf.Tensor) -> tf.Tensor:
        return steps.LOSSES[self.loss](logits, goals)

    @tf.autograph.experimental.do_not_convert
    def start(
        self,
        images: Any,
        labels: Any,
        num_classes: int,
        seed: Any,
        value_range: tuple[float, float],
        targets: Any = None,
        restart: Any = 0,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        limits = checks.value_range(value_range)
        images, seed = checks.batch(images, seed)
        images, labels, goals = self._checked(images, labels, targets, num_classes, limits)
        key = random_draws.fold_restart(seed, restart)
        if goals is None:
            goals = random_draws.random_targets(labels, num_classes, key)
        return self._start(images, key, limits), goals

    @tf.autograph.experimental.do_not_convert
    def advance(
        self,
        logits_fn: Callable,
        images: Any,
        current: Any,
        goals: Any,
        num_steps: Any,
        step_size: float | None,
        value_range: tuple[float, float],
    ) -> tf.Tensor:
        limits = checks.value_range(value_range)
        images, _ = checks.batch(images)
        current, _ = checks.batch(current)
        goals, _ = checks.sparse("goals", goals, images)
        step_size = self.effective_step_size if step_size is None else float(step_size)
        # A tensor, so that one graph serves every step size too; rounded to float32 only once.
        step = tf.constant(steps.in_range(step_size, limits, self.norm), tf.float32)
        num_steps = tf.cast(num_steps, tf.int32)
        num_classes = None
        if hasattr(logits_fn, "prepare"):
            # Known of `tfadv.evaluation.networks.Network`; then the graph is that of a call.
            num_classes = getattr(logits_fn, "num_classes", None)
        descend = self._function(logits_fn, self._descend)
        advanced, looks, finite = descend(
            images, current, goals, num_steps, step, limits, num_classes
        )
        with tf.control_dependencies(checks.outcome(looks, finite, self._broken)):
            return tf.identity(advanced)

    def _start(self, images, key, limits):
        radius = steps.in_range(self.epsilon, limits, self.norm)
        noise = random_draws.random_noise(images, radius, key, self.start_from_clean)
        if self.norm == "l2":
            direction = random_draws.random_direction(images, key, "l2")
            drawn = steps.length(noise, "linf") > 0  # else it starts from the image itself
            noise = tf.where(drawn, direction * radius, 0.0)
        start = images + noise
        return tf.clip_by_value(start, *limits) if self.clip_start else start

    def _descend(self, logits_fn, images, current, goals, num_steps, step, limits, num_classes):
        # The function in the table is that of every PGD, which `self.objective` is not.
        own = type(self).objective is not PGD.objective
        loss = self.objective if own else steps.LOSSES[self.loss]
        return steps.take_steps(
            logits_fn,
            current,
            self._ball(images, limits),
            goals,
            loss=loss,
            ascend=not self.targeted,
            num_steps=num_steps,
            step_size=step,
            num_classes=num_classes,
            jit_compile=self._uses_xla,
        )

    def _prepared(self, logits_fn):
        return logits_fn  # `take_steps` prepares it, in a graph that attacks on it share

    # Replaces the base's, which calls `perturb`: here the logits of every step are checked too, at
    # no extra pass.
    def _once(self, logits_fn, images, labels, goals, key, num_classes, limits, run):
        start = self._start(images, key, limits)
        step = steps.in_range(self.effective_step_size, limits, self.norm)
        adversarial, *outcome = self._descend(
            logits_fn, images, start, goals, self.num_steps, step, limits, num_classes
        )
        if self.num_steps == 0:
            adversarial = self.project(start, images, limits)
        return adversarial, goals, *outcome
