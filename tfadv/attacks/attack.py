"""What every attack is and does: the base class, its restarts, and attacks by their names."""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfadv import results
from tfadv.arguments import Configured, choice, number, warn_of_fractions
from tfadv.attacks import checks, random_draws, steps
from tfadv.tables import attacks as table

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11


def make(name: str, settings: Mapping[str, Any]) -> "Attack":
    """Makes the attack of a name, from those of some settings that its constructor takes.

    Args:
        name: A name in `tfadv.tables.attacks.ATTACKS`, such as `"pgd"`.
        settings: Arguments by name. Those that the attack does not take are ignored.

    Returns:
        An `Attack`.

    Raises:
        ValueError: For an unknown name, or a value that the attack refuses.

    Example:

    ```python
    attack = tfadv.attacks.make("pgd", {"epsilon": 8, "num_steps": 10, "width": 64})
    ```
    """
    table.check(name)
    entry = table.ATTACKS[name]
    attack = pkgutil.resolve_name(entry.path)
    settings = {**settings, **(entry.arguments or {})}
    parameters = inspect.signature(attack).parameters
    if entry.has_steps != ("num_steps" in parameters):
        raise ValueError(
            f"has_steps of {name!r} in the table of attacks must say whether {attack.__name__} "
            f"takes num_steps; received {entry.has_steps}"
        )
    return attack(**{key: value for key, value in settings.items() if key in parameters})


class Attack(Configured):
    """Base class of adversarial attacks.

    An attack makes adversarial images from a network's logits and images in a stated range. It
    knows no layer, model or data set, and it never changes: `replace` returns a changed copy.

    A subclass implements `perturb`. The base class checks images, labels and logits, draws the
    targets, runs the restarts, keeps the result within epsilon and the pixel range, and compiles
    one graph for each network. A subclass keeps every argument of its constructor as an attribute
    of the same name.

    An attack whose steps are all alike may implement `start` and `advance` as well. An evaluation
    at 10, 20 and 100 steps then goes on from step to step, where it otherwise starts over for each
    number; and `tfadv.evaluation.doubts` looks along the attack's steps.

    Args:
        epsilon: Largest change of a pixel, in pixels of 255.
        targeted: Whether to aim at a wrong label drawn at random, or away from the true one.

    Attributes:
        num_steps: Number of iterations; None, unless a subclass takes it as an argument.
        restarts: Number of attacks on each image, with a new start and a new target each. The
            strongest counts (`strength`). 1, unless a subclass takes it as an argument.
        members: The attacks of an ensemble, in their order; none for a single attack.
        norm: `"linf"` or `"l2"`, the norm that epsilon bounds.
        spares_misclassified: Whether it returns images that are misclassified without an attack as
            they are. An evaluation then does not attack them.
        label: What the attack is called without its number of steps: the name of its class.
        name: Its name in tables and results, such as `"PGD-30"`.
        effective_step_size: Size of one step in pixels of 255; None if there is no such number.
        start_from_clean: Probability that the attack starts from the image itself.
        takes_parts: Whether it takes one key for each of several parts of a batch, as attacks do
            that draw with `random_noise` and `random_targets` alone. A training may then attack the
            parts of an update together. False, unless a subclass says otherwise.
        loss: Name of the loss that it follows, or None.

    Example:

    ```python
    import tensorflow as tf

    class SignStep(tfadv.attacks.Attack):  # one step of epsilon along the sign of the gradient
        def perturb(self, logits_fn, images, labels, goals, value_range, seed):
            step = tfadv.attacks.scale_to_range(self.epsilon, value_range)
            sign = tf.sign(self.gradient(logits_fn, images, goals))
            return images - step * sign if self.targeted else images + step * sign

    attack = SignStep(epsilon=8)
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    num_steps: int | None = None
    restarts = 1
    start_from_clean = 0.0
    loss: str | None = None
    norm = "linf"
    members: tuple["Attack", ...] = ()
    spares_misclassified = False
    takes_parts = False
    jit_compile: bool | None = False
    # The error of a NaN in the result names this as its cause.
    _broken = "a pixel of the adversarial images"

    def __init__(self, epsilon: float = 16.0, targeted: bool = False):
        self.epsilon = number("epsilon", epsilon, 0, 255, "pixels of 255")
        self.targeted = choice("targeted", targeted, (True, False))
        self._functions = _FunctionCache()
        if self.norm == "linf":
            warn_of_fractions(self.epsilon)

    @property
    def label(self) -> str:
        return type(self).__name__

    @property
    def name(self) -> str:
        return results.attack_name(self.label, self.num_steps)

    @property
    def effective_step_size(self) -> float | None:
        return None

    def runs(self, num_classes: int) -> int:
        """Returns the number of its runs on each image: here of its restarts.

        Args:
            num_classes: The number of classes, on which the number of targets may depend.

        Raises:
            ValueError: If the attack needs more classes.
        """
        return self.restarts

    def _passes(self) -> int:
        """About how many passes forward a run costs, one back counted as two; for estimates."""
        return 3 * (self.num_steps or 1)

    def with_steps(self, num_steps: int | None) -> "Self":
        """Returns this attack with another number of steps; itself for None."""
        return self if num_steps is None else self.replace(num_steps=num_steps)

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        logits_fn: Callable,
        images: Any,
        labels: Any,
        *,
        value_range: tuple[float, float],
        seed: Any,
        targets: Any = None,
        num_classes: int | None = None,
        return_targets: bool = False,
        run: Any = None,
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Makes adversarial images, eagerly or inside a `tf.function`.

        Eager calls compile one graph per `logits_fn` and shape of images: pass the same object
        again, not a new lambda. AutoGraph does not convert `logits_fn`: one that branches on
        tensors must be a `tf.function`. If the caller compiles all of this with XLA, it loses the
        checks that need values. Inside an eager gradient tape it only costs memory.

        Args:
            logits_fn: Function, float32 images -> floating-point logits `[batch, classes]`; a Keras
                model that ends in logits is one.
            images: `[batch, ...]` of any real dtype, inside `value_range`.
            labels: The true labels: integers `[batch]` or `[batch, 1]`, or one-hot rows.
            value_range: `(lowest, highest)` value that a pixel can have; lengths in pixels are
                multiplied by `(highest - lowest) / 255`.
            seed: Integers, `[2]`: one key for the batch (training: from seed, rank and step), or
                `[batch, 2]`: one per image (evaluation: seed and index), which then gets the same
                draws in every batch. If the attack `takes_parts`, also `[parts, 2]`: one for each
                of some equal parts of the batch, which then gets the draws that it has alone.
            targets: The classes to aim at, in any form that labels may have; drawn where None.
            num_classes: Where None, the number of columns of one-hot labels, or else of the logits,
                at the cost of tracing `logits_fn` once more.
            return_targets: Whether to return the targets (untargeted: the labels) as well.
            run: Number of a single run, an integer or a scalar tensor from 0 to
                `runs(num_classes) - 1`. None makes all of them, and each image keeps its
                strongest result.

        Returns:
            Adversarial images, float32 in the shape of `images`, within epsilon of them and within
            `value_range`; with `return_targets` also integers `[batch]`. No gradient flows back.

        Raises:
            ValueError: For images outside of `value_range`, labels or targets outside of the
                classes, probabilities instead of logits, a gradient or a pixel that is NaN, shapes
                that do not fit. In a graph, `tf.errors.InvalidArgumentError` for errors that depend
                on values; its last lines say which (`fit` with `AdversarialTraining` raises
                ValueError).
        """
        given = self._given(logits_fn, images, labels, targets, value_range, seed, num_classes)
        if run is None:
            outcome = self._function(logits_fn, self._attack)(*given)
        else:
            # A tensor, so that one graph serves all runs.
            outcome = self._function(logits_fn, self._run)(*given, tf.cast(run, tf.int32))
        adversarial, goals, looks, finite = outcome
        with tf.control_dependencies(checks.outcome(looks, finite, self._broken)):
            adversarial = tf.identity(adversarial)
        return (adversarial, goals) if return_targets else adversarial

    def _given(self, logits_fn, images, labels, targets, value_range, seed, num_classes):
        """The arguments of a call after their checks, as `_attack` and `_run` take them."""
        limits = checks.value_range(value_range)
        images, seed = checks.batch(images, seed)
        if num_classes is None:
            num_classes = checks.sparse("labels", labels, images)[1]
        if num_classes is None:
            num_classes = self._functions.num_classes(logits_fn, images)
        self.runs(num_classes)  # raises if there are too few classes
        images, labels, goals = self._checked(images, labels, targets, num_classes, limits)
        return images, labels, goals, seed, num_classes, limits

    def _pieces(self, logits_fn, images, labels, **given):
        """Makes an eager call in pieces of bounded length, so that the caller can show progress.

        Yields the images and the targets so far, as a call with `return_targets` returns them. The
        last of them are its result.
        """
        yield self(logits_fn, images, labels, return_targets=True, **given)

    def perturb(
        self,
        logits_fn: Callable,
        images: tf.Tensor,
        labels: tf.Tensor,
        goals: tf.Tensor,
        value_range: tuple[float, float],
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Makes the adversarial images of one attack, without restarts; subclasses implement it.

        It is called in a graph.

        Args:
            logits_fn: As for a call.
            images: Float32 `[batch, ...]`.
            labels: Integers `[batch]`, the true labels.
            goals: Integers `[batch]`, the targets, or the labels if the attack is untargeted.
            value_range: Two floats.
            seed: int64 `[2]`, `[batch, 2]` or `[parts, 2]`, as for a call, of this restart.

        Returns:
            Float32 images in the shape of `images`. The base class projects them (`project`).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement perturb")

    def project(
        self, adversarial: tf.Tensor, images: tf.Tensor, value_range: tuple[float, float]
    ) -> tf.Tensor:
        """Projects images onto the threat model: the ball of epsilon and the pixel range."""
        return self._ball(images, value_range).project(adversarial)

    def _ball(self, images, value_range):
        """The threat model around some images."""
        radius = steps.in_range(self.epsilon, value_range, self.norm)
        return steps.Ball(images, radius, value_range, self.norm)

    def objective(self, logits: tf.Tensor, goals: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image, float32 `[batch]`; by default the cross entropy.

        A targeted attack descends it to the targets, an untargeted one ascends it to the labels.
        """
        return steps.cross_entropy(logits, goals)

    @tf.autograph.experimental.do_not_convert
    def gradient(self, logits_fn: Callable, images: Any, goals: Any) -> tf.Tensor:
        """Computes the gradient of `objective` to the images, float32."""
        images, _ = checks.batch(images)
        goals, _ = checks.sparse("goals", goals, images)
        return self._function(logits_fn, self._gradient)(images, goals) / steps.LOSS_SCALE

    def strength(
        self, logits: tf.Tensor, labels: tf.Tensor, goals: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Ranks adversarial images by their logits, so that restarts can keep the strongest.

        Args:
            logits: Float `[batch, classes]` of the adversarial images.
            labels: Integers `[batch]`, the true labels.
            goals: Integers `[batch]`, the targets, or the labels if the attack is untargeted.

        Returns:
            An int32 level `[batch]` (2 classified as the target, 1 misclassified, 0 classified as
            the label) and a float32 score `[batch]`, the objective in the attack's direction. A
            higher level is stronger; at one level, a higher score.
        """
        logits = tf.cast(logits, tf.float32)
        predicted = tf.argmax(logits, axis=-1, output_type=labels.dtype)
        level = tf.cast(predicted != labels, tf.int32)
        score = self.objective(logits, goals)
        if not self.targeted:
            return level, score
        hit = tf.cast(predicted == tf.cast(goals, labels.dtype), tf.int32)
        return level + level * hit, -score

    @property
    def advances(self) -> bool:
        """Whether the attack has steps, and `start` and `advance` to go on from any of them."""
        return self.num_steps is not None and type(self).advance is not Attack.advance

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
        """Draws where the attack starts and what it aims at.

        Args:
            images, labels, num_classes, seed, value_range, targets: As for a call.
            restart: Number of the restart, an integer or a scalar tensor; 0 is the first attack.

        Returns:
            Start images, float32, which may leave the range; and integers `[batch]`, the targets,
            or the labels if the attack is untargeted: the `current` and `goals` of `advance`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement start")

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
        raise NotImplementedError(f"{type(self).__name__} does not implement advance")

    @property
    def _uses_xla(self):
        # Looked up at every trace, since a process may hide its GPUs after it made the attack.
        if self.jit_compile is None:
            return bool(tf.config.get_visible_devices("GPU"))
        return self.jit_compile

    def _loop(self, function):
        """A loop over tensors, compiled by XLA where `jit_compile` says so."""
        return steps.compiled(function) if self._uses_xla else function

    def _function(self, logits_fn, method):
        """`method(logits_fn, ...)` as a function of the rest; compiled and kept when eager."""
        if tf.executing_eagerly():
            return self._functions.compiled(logits_fn, method)
        return functools.partial(method, logits_fn)

    def _checked(self, images, labels, targets, num_classes, limits):
        """Images, labels and goals (None: to be drawn) after the checks that need their values."""
        labels, one_hot_classes = checks.sparse("labels", labels, images)
        if one_hot_classes not in (None, num_classes):
            raise ValueError(f"labels must have {num_classes} classes; received {one_hot_classes}")
        assertions = checks.images(images, limits) + checks.classes("labels", labels, num_classes)
        goals = None if self.targeted else labels
        if targets is not None:
            if not self.targeted:
                raise ValueError("targets must be None for an untargeted attack")
            goals, _ = checks.sparse("targets", targets, images)
            assertions += checks.classes("targets", goals, num_classes)
            goals = tf.cast(goals, labels.dtype)
        with tf.control_dependencies(assertions):
            return tf.identity(images), labels, goals

    def _gradient(self, logits_fn, images, goals):
        return steps.gradient(logits_fn, images, goals, self.objective)[0]

    def _attack(self, logits_fn, images, labels, goals, seed, num_classes, limits):
        """All runs; returns the images, their goals, and two arguments of `checks.outcome`."""
        network = self._prepared(logits_fn)  # once for all runs

        def once(run):
            return self._run(network, images, labels, goals, seed, num_classes, limits, run)

        count = self.runs(num_classes)
        if count == 1:
            return once(0)
        ready = steps.prepared(network)

        def strength(adversarial, aims):
            logits, _ = checks.logits(ready(adversarial), adversarial, num_classes)
            return self.strength(logits, labels, aims)

        return _strongest(once, strength, count, images, labels)

    def _run(self, logits_fn, images, labels, goals, seed, num_classes, limits, run):
        """One run by its number; returns what `_attack` returns."""
        logits_fn = self._prepared(logits_fn)
        key = random_draws.fold_restart(seed, run)
        if goals is None:
            goals = random_draws.random_targets(labels, num_classes, key)
        return self._once(logits_fn, images, labels, goals, key, num_classes, limits, run)

    def _prepared(self, logits_fn):
        """The network as `_once` takes it."""
        return steps.prepared(logits_fn)

    def _once(self, logits_fn, images, labels, goals, key, num_classes, limits, run):
        """One run by its key; returns what `_attack` returns."""
        _, looks = checks.logits(logits_fn(images), images, num_classes)
        adversarial = self.perturb(logits_fn, images, labels, goals, limits, key)
        adversarial = tf.ensure_shape(tf.cast(adversarial, tf.float32), images.shape)
        finite = ~tf.reduce_any(tf.math.is_nan(adversarial))
        adversarial = tf.stop_gradient(self.project(adversarial, images, limits))
        return adversarial, goals, looks & (tf.size(images) > 0), finite


def _strongest(attack, strength, count, images, labels):
    """Keeps each image's strongest result of several attacks, looping in the graph.

    Args:
        attack: Function, number of the restart -> images, their goals, and two boolean tensors
            that must hold in all restarts together, `[2]` and a scalar.
        strength: Function, images and goals -> their level and score.
        count: Number of attacks.
        images: Float32 `[batch, ...]`, the clean ones.
        labels: Integers `[batch]`.

    Returns:
        What `attack` returns.
    """

    def body(restart, kept, kept_goals, level, score, first, second):
        new, new_goals, new_first, new_second = attack(restart)
        new_level, new_score = strength(new, new_goals)
        better = (new_level > level) | ((new_level == level) & (new_score > score))
        wide = tf.reshape(better, [-1] + [1] * (images.shape.rank - 1))
        return (
            restart + 1,
            tf.where(wide, new, kept),
            tf.where(better, new_goals, kept_goals),
            tf.where(better, new_level, level),
            tf.where(better, new_score, score),
            first & new_first,
            second & new_second,
        )

    none = tf.fill(tf.shape(labels), -1)  # a level below every other, so the first result is kept
    state = (tf.constant(0), images, labels, none, tf.cast(none, tf.float32))
    _, kept, goals, _, _, first, second = tf.while_loop(
        lambda restart, *_: restart < count,
        body,
        (*state, tf.constant([True, True]), tf.constant(True)),
        parallel_iterations=1,
    )
    return kept, goals, first, second


class _FunctionCache(steps.PerNetwork):
    """Compiles `method(logits_fn, ...)` once per `logits_fn`, so that a second call is no trace.

    A new lambda per call is a new trace per call, as with any `tf.function`.
    """

    def compiled(self, logits_fn, method):
        """`method(logits_fn, ...)` as a `tf.function` of its other arguments."""

        def make(reference):
            return tf.function(lambda *args: method(reference(), *args), autograph=False)

        return self.get(logits_fn, method.__name__, make)

    def num_classes(self, logits_fn, images):
        """The number of classes, found by tracing `logits_fn` once."""

        def make(reference):
            shapes = []

            def trace(images):
                logits, _ = checks.logits(reference()(images), images)
                shapes.append(logits.shape)

            spec = tf.TensorSpec(images.shape, tf.float32)
            tf.function(trace, autograph=False).get_concrete_function(spec)
            if shapes[-1][-1] is None:
                raise ValueError(
                    "num_classes must be given: the shape of the logits leaves it open"
                )
            return shapes[-1][-1]

        return self.get(logits_fn, "num_classes", make)
