"""Projected gradient descent on the image, in an L-infinity ball."""

import functools

import tensorflow as tf

from tfadv import arguments
from tfadv.attacks import (
    checks,
    functions,
    keys,
    losses,
    projections,
    restarts,
    starts,
    steps,
)
from tfadv.attacks.targets import random_targets


class PGD(arguments.Configured):
    """The PGD attacker of the paper and its pipeline; targeted by default.

    `x' <- clip(x' - s * sign(d loss(f(x'), target) / dx'), max(x - eps, low), min(x + eps, high))`

    starting from `x + U(-eps, eps)`, which is not clipped to the pixel range before the first
    gradient (pipeline) unless `clip_start` says so. An untargeted attack ascends the loss to the
    label instead. An attack never changes; `replace` gives a changed copy.

    Args:
        epsilon: Largest change of a pixel, in pixels of 255 (16 in the paper).
        step_size: Of one iteration, in pixels of 255 (1 in the paper).
        num_steps: Iterations (30 in the paper's training, up to 2000 in its evaluation). With 0 the
            result is the start, clipped into the ball and the range: at epsilon 0 the image.
        targeted: Whether to aim at a wrong label drawn at random, or away from the true one.
        loss: `"cross_entropy"` (the paper; without label smoothing) or `"margin"`.
        start_from_clean: Probability that the start is the image itself (0.2 in the paper's
            training, 0 in its evaluation). With one key for the batch this is one draw for the
            whole batch (pipeline); with a key per image it is one draw per image, since such a
            batch has no key of its own.
        step_size_rule: `"pipeline"` raises the step size to `epsilon / num_steps` where that is
            larger, so that the whole ball can be crossed: 1.6 for PGD-10, 3.2 for PGD-5.
            `"fixed"` takes it as given (the paper's footnote 6: 2 for PGD-10, 4 for PGD-5).
        restarts: Attacks with a new start and a new target each, of which every image keeps the
            strongest result: one that hits its target, else one that is misclassified, else the
            one with the best loss.
        jit_compile: Whether XLA compiles the loop of steps, alone. None: only where TensorFlow sees
            a GPU (on a CPU XLA was ten times slower).
        clip_start: Whether a random start is clipped to the pixel range before the first gradient,
            as other libraries do. The pipeline does not: on images with many pixels at the ends of
            the range, such as digits, an attack of few steps is a little weaker so.
    """

    def __init__(
        self,
        epsilon=16.0,
        step_size=1.0,
        num_steps=30,
        targeted=True,
        loss="cross_entropy",
        start_from_clean=0.0,
        step_size_rule="pipeline",
        restarts=1,
        jit_compile=None,
        clip_start=False,
    ):
        self.epsilon = arguments.number("epsilon", epsilon, 0, 255, "pixels of 255")
        self.step_size = arguments.positive("step_size", step_size, "pixels of 255")
        self.num_steps = arguments.integer("num_steps", num_steps, 0)
        self.targeted = arguments.choice("targeted", targeted, (True, False))
        self.loss = arguments.choice("loss", loss, losses.LOSSES)
        self.start_from_clean = arguments.number("start_from_clean", start_from_clean, 0, 1)
        self.step_size_rule = arguments.choice(
            "step_size_rule", step_size_rule, ("pipeline", "fixed")
        )
        self.restarts = arguments.integer("restarts", restarts, 1)
        self.jit_compile = arguments.choice("jit_compile", jit_compile, (None, True, False))
        self.clip_start = arguments.choice("clip_start", clip_start, (False, True))
        self._functions = functions.FunctionCache()
        arguments.warn_of_fractions(self.epsilon, self.step_size)

    @property
    def name(self):
        """Short name, like `"PGD-30"`."""
        return f"PGD-{self.num_steps}"

    @property
    def effective_step_size(self):
        """The step size after `step_size_rule`, in pixels of 255."""
        if self.step_size_rule == "fixed" or self.num_steps == 0:
            return self.step_size
        return max(self.step_size, self.epsilon / self.num_steps)

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        logits_fn,
        images,
        labels,
        *,
        value_range,
        seed,
        targets=None,
        num_classes=None,
        return_targets=False,
    ):
        """Makes adversarial images, eagerly or inside a `tf.function`.

        Eager calls compile one graph per `logits_fn` and shape of images: pass the same object
        again, not a new lambda. AutoGraph does not convert `logits_fn`: one that branches on
        tensors must be a `tf.function`. If the caller compiles all of this with XLA, it loses the
        checks that need values. Inside an eager gradient tape it only costs memory.

        Args:
            logits_fn: Function, float32 images -> floating-point logits `[batch, classes]`; a Keras
                model that ends in logits is one.
            images: `[batch, ...]` of any real dtype, inside `value_range`.
            labels: The true ones: integers `[batch]` or `[batch, 1]`, or one-hot rows.
            value_range: `(lowest, highest)` value that a pixel can have; epsilon and the step size
                are multiplied by `(highest - lowest) / 255`.
            seed: Integers, `[2]`: one key for the batch (training: from seed, rank and step), or
                `[batch, 2]`: one per image (evaluation: seed and index), which then gets the same
                draws in whatever batch it is.
            targets: The classes to aim at, in a form of `labels`; drawn where None.
            num_classes: Read off one-hot labels where None, or else off the logits, at the cost of
                tracing `logits_fn` once more.
            return_targets: Whether to return the targets (untargeted: the labels) as well.

        Returns:
            Adversarial images, float32 in the shape of `images`, within epsilon of them and within
            `value_range`; with `return_targets` also integers `[batch]`. No gradient flows back.

        Raises:
            ValueError: For images outside of `value_range`, labels or targets outside of the
                classes, probabilities in place of logits, a gradient that is NaN, shapes that do
                not fit. In a graph, `tf.errors.InvalidArgumentError` for what takes values to see;
                its last lines say it (`fit` with `AdversarialTraining` raises ValueError).
            AttributeError: For an assignment to an attribute of the attack.
        """
        limits = checks.value_range(value_range)
        images, seed = checks.batch(images, seed)
        if num_classes is None:
            num_classes = checks.sparse("labels", labels, images)[1]
        if num_classes is None:
            num_classes = self._functions.num_classes(logits_fn, images)
        images, labels, goals = self._checked(images, labels, targets, num_classes, limits)
        attack = self._function(logits_fn, self._attack)
        adversarial, goals, *outcome = attack(images, labels, goals, seed, num_classes, limits)
        with tf.control_dependencies(checks.outcome(*outcome)):
            adversarial = tf.identity(adversarial)
        return (adversarial, goals) if return_targets else adversarial

    @tf.autograph.experimental.do_not_convert
    def start(self, images, labels, num_classes, seed, value_range, targets=None, restart=0):
        """Draws where an attack starts and what it aims at.

        Args:
            images, labels, num_classes, seed, value_range, targets: As for a call.
            restart: Number of the restart, an integer or a scalar tensor; 0 is the first attack.

        Returns:
            Start images, float32, clipped to the range only with `clip_start`; and integers
            `[batch]`, the targets, or the labels if the attack is untargeted: what `advance` takes.
        """
        limits = checks.value_range(value_range)
        images, seed = checks.batch(images, seed)
        checked = self._checked(images, labels, targets, num_classes, limits)
        return self._start(*checked, seed, num_classes, limits, restart)

    @tf.autograph.experimental.do_not_convert
    def advance(self, logits_fn, images, current, goals, num_steps, step_size, value_range):
        """Takes some more steps: 20 and then 80 give the bits of 100.

        Args:
            logits_fn: As for a call.
            images: The clean images, around which the ball lies.
            current: Where to go on from: what `start` or `advance` returned.
            goals: Integers `[batch]`, the targets or the labels: what `start` returned.
            num_steps: Integer, or scalar integer tensor, which one graph serves with any value.
            step_size: In pixels of 255; None is `effective_step_size`.
            value_range: As for a call.

        Returns:
            The images after the steps, float32; after at least one, within epsilon and the range.
        """
        limits = checks.value_range(value_range)
        images, _ = checks.batch(images)
        current, _ = checks.batch(current)
        goals, _ = checks.sparse("goals", goals, images)
        step_size = self.effective_step_size if step_size is None else float(step_size)
        # A tensor, so that one graph serves every step size too; rounded to float32 only once.
        step = tf.constant(projections.scale_to_range(step_size, limits), tf.float32)
        num_steps = tf.cast(num_steps, tf.int32)
        descend = self._function(logits_fn, self._descend)
        advanced, *outcome = descend(images, current, goals, num_steps, step, limits)
        with tf.control_dependencies(checks.outcome(*outcome)):
            return tf.identity(advanced)

    @tf.autograph.experimental.do_not_convert
    def gradient(self, logits_fn, images, goals):
        """Gradient of the loss to the images, float32; its sign is what a step takes."""
        images, _ = checks.batch(images)
        goals, _ = checks.sparse("goals", goals, images)
        return self._function(logits_fn, self._gradient)(images, goals) / steps.LOSS_SCALE

    def strength(self, logits, labels, goals):
        """How strong adversarial images are, by their logits; see `restarts.strength`."""
        loss = losses.LOSSES[self.loss]
        return restarts.strength(logits, labels, goals, loss=loss, targeted=self.targeted)

    def _function(self, logits_fn, method):
        """`method(logits_fn, ...)` as a function of the rest; compiled and kept when eager."""
        if tf.executing_eagerly():
            return self._functions.compiled(logits_fn, method)
        return functools.partial(method, logits_fn)

    def _checked(self, images, labels, targets, num_classes, limits):
        """Images, labels and goals (None: to be drawn) behind the checks that need their values."""
        labels, one_hot_classes = checks.sparse("labels", labels, images)
        if one_hot_classes not in (None, num_classes):
            raise ValueError(f"labels must have {num_classes} classes; received {one_hot_classes}")
        done = checks.images(images, limits) + checks.classes("labels", labels, num_classes)
        goals = None if self.targeted else labels
        if targets is not None:
            if not self.targeted:
                raise ValueError("targets must be None for an untargeted attack")
            goals, _ = checks.sparse("targets", targets, images)
            done += checks.classes("targets", goals, num_classes)
            goals = tf.cast(goals, labels.dtype)
        with tf.control_dependencies(done):
            return tf.identity(images), labels, goals

    def _start(self, images, labels, goals, seed, num_classes, limits, restart):
        seed = keys.fold_restart(seed, restart)
        if goals is None:
            goals = random_targets(labels, num_classes, seed)
        radius = projections.scale_to_range(self.epsilon, limits)
        start = images + starts.random_noise(images, radius, seed, self.start_from_clean)
        return tf.clip_by_value(start, *limits) if self.clip_start else start, goals

    def _descend(
        self, logits_fn, images, current, goals, num_steps, step, limits, num_classes=None
    ):
        return steps.take_steps(
            logits_fn,
            current,
            projections.linf_bounds(images, self.epsilon, limits),
            goals,
            loss=losses.LOSSES[self.loss],
            ascend=not self.targeted,
            num_steps=num_steps,
            step_size=step,
            num_classes=num_classes,
            # Looked up at every trace, since a process may hide its GPUs after it made the attack.
            jit_compile=bool(tf.config.get_visible_devices("GPU"))
            if self.jit_compile is None
            else self.jit_compile,
        )

    def _gradient(self, logits_fn, images, goals):
        return steps.gradient(logits_fn, images, goals, losses.LOSSES[self.loss])[0]

    def _attack(self, logits_fn, images, labels, goals, seed, num_classes, limits):
        logits_fn = steps.prepared(logits_fn)  # once for all restarts

        def once(restart):
            start, aims = self._start(images, labels, goals, seed, num_classes, limits, restart)
            step = projections.scale_to_range(self.effective_step_size, limits)
            adversarial, *outcome = self._descend(
                logits_fn, images, start, aims, self.num_steps, step, limits, num_classes
            )
            if self.num_steps == 0:
                bounds = projections.linf_bounds(images, self.epsilon, limits)
                adversarial = projections.project(start, bounds)
            return adversarial, aims, *outcome

        def evaluate(adversarial, aims):
            logits, _ = checks.logits(logits_fn(adversarial), adversarial, num_classes)
            return self.strength(logits, labels, aims)

        if self.restarts == 1:
            return once(0)
        return restarts.strongest(once, evaluate, self.restarts, images, labels)
