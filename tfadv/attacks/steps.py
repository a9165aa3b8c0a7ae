"""The vocabulary of attacks by gradient: lengths, ball and projection, losses, gradient, steps."""

import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tfadv import startup
from tfadv.attacks import checks

# The step takes the gradient's sign alone, so a power of two changes nothing in float32 and
# bfloat16, but it keeps the small gradients of a float16 network from becoming zero (pipeline).
LOSS_SCALE = 128.0


NORMS = ("linf", "l2")


def scale_to_range(pixels: float, value_range: tuple[float, float]) -> float:
    """Converts a length in pixels of 255 to the units of images in `value_range`.

    Args:
        pixels: Number, in pixels of 255.
        value_range: `(lowest, highest)` value of a pixel.

    Returns:
        float, `pixels * (highest - lowest) / 255`.
    """
    low, high = value_range
    return float(pixels) * (high - low) / 255.0


def linf_bounds(
    images: tf.Tensor, epsilon: float, value_range: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the lowest and highest value of every pixel in the ball and the pixel range.

    `max(x - eps, low)` and `min(x + eps, high)`

    Args:
        images: Float32 tensor, in the units of `value_range`.
        epsilon: The radius, in pixels of 255.
        value_range: `(lowest, highest)` value of a pixel.

    Returns:
        Two float32 tensors in the shape of `images`.
    """
    return _linf_bounds(images, scale_to_range(epsilon, value_range), value_range)


def _linf_bounds(images, radius, value_range):
    low, high = value_range
    # Rounding may leave an image outside: 255 * (2 / 255) - 1 is above 1 in float32.
    images = tf.clip_by_value(images, low, high)
    return tf.maximum(images - radius, low), tf.minimum(images + radius, high)


def project(images: tf.Tensor, bounds: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Clips every pixel to its bounds: the projection onto the L-infinity ball and the range."""
    return tf.clip_by_value(images, *bounds)


def in_range(value: float, value_range: tuple[float, float], norm: str) -> float:
    """Converts an epsilon or a step size to the units of images in `value_range`.

    Args:
        value: In pixels of 255 if `norm` is `"linf"`; for images from 0 to 1 if it is `"l2"`.
        value_range: `(lowest, highest)` value of a pixel.
        norm: `"linf"` or `"l2"`.
    """
    low, high = value_range
    return scale_to_range(value, value_range) if norm == "linf" else float(value) * (high - low)


def length(differences: tf.Tensor, norm: str) -> tf.Tensor:
    """Computes the norm of each image's difference, float32 `[batch, 1, ...]`."""
    axes = list(range(1, differences.shape.rank))
    if norm == "linf":
        return tf.reduce_max(tf.abs(differences), axes, keepdims=True)
    return tf.sqrt(tf.reduce_sum(tf.square(differences), axes, keepdims=True))


def unit(differences: tf.Tensor, norm: str) -> tf.Tensor:
    """Scales each image's difference to norm 1; a difference of zeros stays as it is."""
    return tf.math.divide_no_nan(differences, length(differences, norm))


class Ball:
    """The threat model around some images: the ball of a norm, within the pixel range.

    Args:
        images: Float32 `[batch, ...]`, in the units of `value_range`.
        radius: A number or scalar tensor, in the units of the images (`in_range`).
        value_range: `(lowest, highest)` value of a pixel.
        norm: `"linf"` or `"l2"`.

    Attributes:
        images, radius, value_range, norm: As given.
    """

    def __init__(
        self, images: tf.Tensor, radius: Any, value_range: tuple[float, float], norm: str
    ) -> None:
        self.images = images
        self.radius = radius
        self.value_range = value_range
        self.norm = norm
        if norm == "linf":
            self._bounds = _linf_bounds(images, radius, value_range)

    def project(self, points: tf.Tensor) -> tf.Tensor:
        """Projects points onto the ball, and then clips them to the pixel range."""
        if self.norm == "linf":
            return project(points, self._bounds)
        center = tf.clip_by_value(self.images, *self.value_range)
        offsets = points - center
        shorter = tf.minimum(1.0, tf.math.divide_no_nan(self.radius, length(offsets, "l2")))
        offsets = tf.where(length(offsets, "l2") > self.radius, offsets * shorter, offsets)
        return tf.clip_by_value(center + offsets, *self.value_range)

    def ascent(self, gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 along which the gradient ascends most."""
        return tf.sign(gradient) if self.norm == "linf" else unit(gradient, "l2")


def cross_entropy(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Computes the cross entropy to one class per image, without label smoothing (pipeline).

    `-log softmax(z)_k` for class `k`: a targeted attack minimizes it to the target, an untargeted
    one maximizes it to the label.

    Args:
        logits: Float32 `[batch, classes]`.
        classes: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)


def margin(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Computes how far the best other class is above the given one.

    `max_{j != k} z_j - z_k` for class `k`: a targeted attack minimizes it to the target, an
    untargeted one maximizes it to the label. Unlike cross entropy it does not saturate: its
    gradient to the logits is 1 and -1 however confident the model is. It is beyond the paper.

    Args:
        logits: Float32 `[batch, classes]`, at least two classes.
        classes: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    given = tf.one_hot(classes, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.reduce_max(tf.where(given, logits.dtype.min, logits), axis=-1)
    return others - tf.reduce_sum(tf.where(given, logits, 0.0), axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


def dlr(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Computes the difference of logits ratio, which no scale or shift of the logits changes.

    `(max_{j != k} z_j - z_k) / (z_(1) - z_(3))` for class `k` and the logits in descending order
    `z_(1), z_(2), ...` (Croce and Hein, "Reliable evaluation of adversarial robustness", ICML
    2020). An untargeted attack maximizes it to the label.

    Args:
        logits: Float32 `[batch, classes]`, at least three classes.
        classes: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    top = tf.math.top_k(logits, 3).values
    return margin(logits, classes) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: tf.Tensor, classes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes the difference of logits ratio of a target and the label.

    `(z_t - z_k) / (z_(1) - (z_(3) + z_(4)) / 2)` for class `k` and target `t`, as in `dlr`. An
    attack maximizes it.

    Args:
        logits: Float32 `[batch, classes]`, at least four classes.
        classes: Integers `[batch]`, the labels.
        targets: Integers `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    top = tf.math.top_k(logits, 4).values
    return difference(logits, classes, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def difference(logits: tf.Tensor, classes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes how far the target's logit is above the class's, float32 `[batch]`."""
    of_target, of_class = (tf.gather(logits, each, batch_dims=1) for each in (targets, classes))
    return of_target - of_class


_TINY = 1e-12  # the logits of a network at its start may all be equal


def gradient(
    logits_fn: Callable,
    images: tf.Tensor,
    classes: tf.Tensor,
    loss: Callable,
    num_classes: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the gradient of the summed loss to the images, and to nothing else.

    Args:
        logits_fn: Function, images -> logits `[batch, classes]`.
        images: Float32 `[batch, ...]`.
        classes: Integers `[batch]`, the classes that the loss is computed for.
        loss: Function of float32 logits and classes, such as those in `LOSSES`.
        num_classes: Number of logits that an image must have, if it is known.

    Returns:
        The gradient times `LOSS_SCALE`, float32 in the shape of `images`; and a boolean `[2]`, what
        the logits look like (`checks.logits`).

    Raises:
        ValueError: If the logits have no gradient.
    """
    slope, _, _, looks = value_and_gradient(
        logits_fn, images, lambda logits: loss(logits, classes), num_classes
    )
    return slope, looks


def value_and_gradient(
    logits_fn: Callable,
    images: tf.Tensor,
    objective: Callable,
    num_classes: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes a loss, its gradient to the images and the logits in one pass.

    Args:
        logits_fn, images, num_classes: As of `gradient`.
        objective: Function, float32 logits -> loss of each image, float32 `[batch]`.

    Returns:
        The gradient as of `gradient`, the loss `[batch]`, the logits `[batch, classes]`, and what
        they look like, as of `gradient`.

    Raises:
        ValueError: If the logits have no gradient.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits, looks = checks.logits(logits_fn(images), images, num_classes)
        values = objective(logits)
        scaled = values * LOSS_SCALE
    slope = tape.gradient(scaled, images)
    if slope is None:
        inputs = getattr(logits_fn, "inputs", None) or [images]
        dtype = tf.as_dtype(inputs[0].dtype).name
        reason = "" if "int" not in dtype else f" (its input is {dtype}: cast the images to float)"
        raise ValueError(f"logits_fn must be differentiable; its logits have no gradient{reason}")
    return tf.convert_to_tensor(slope), values, logits, looks


def compiled(function: Callable) -> Callable:
    """Compiles a function of tensors with XLA; on disk it has the same name in each process."""
    startup.repeat_names()
    return tf.function(function, jit_compile=True, autograph=False)


def prepared(logits_fn: Callable) -> Callable:
    """Prepares a network that has a `prepare` (`tfadv.models.Frozen`), and returns others as is."""
    return logits_fn.prepare() if hasattr(logits_fn, "prepare") else logits_fn


class PerNetwork:
    """Keeps what was made for a function images -> logits for as long as that function lives.

    A function is recognized by identity (a bound method by its object and function) and held
    weakly: a model that its owner drops is freed together with its graphs.
    """

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def get(self, logits_fn: Callable, key: Hashable, make: Callable) -> Any:
        """Returns what `make(reference)` returned at the first call for this `logits_fn` and `key`.

        `reference()` is the `logits_fn`; the result must not hold it otherwise, to be freed.
        """
        owner: Any = logits_fn
        reference: Callable = weakref.ref
        if isinstance(logits_fn, types.MethodType):
            owner, key = logits_fn.__self__, (key, logits_fn.__func__)
            reference = weakref.WeakMethod
        try:
            kept = self._kept.setdefault(owner, {})
        except TypeError:  # neither hashable nor weakly referable: nothing to hang it on
            return make(lambda: logits_fn)
        if key not in kept:
            kept[key] = make(reference(logits_fn))
        return kept[key]


_descents = PerNetwork()


def take_steps(
    logits_fn: Callable,
    images: tf.Tensor,
    ball: Ball,
    classes: tf.Tensor,
    *,
    loss: Callable,
    ascend: bool,
    num_steps: Any,
    step_size: Any,
    num_classes: int | None,
    jit_compile: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes `num_steps` gradient steps from `images`, each projected onto the ball.

    `x <- project(x -+ step_size * direction)`, minus to descend. The direction is the sign of the
    gradient for L-infinity, and the gradient divided by its length for L2.

    A network with a `prepare` (`tfadv.models.Frozen`) never changes. So all attacks on it share one
    graph for each shape of images, whatever their radius, step size and number of steps are, if
    they have the same loss, norm and range. This graph prepares the network itself.

    Args:
        logits_fn: Function, images -> logits `[batch, classes]`.
        images: Float32 `[batch, ...]`, where the steps begin; need not lie inside the ball.
        ball: The `Ball` around the clean images.
        classes: Integers `[batch]`, the classes that the loss is computed for.
        loss: Function of float32 logits and classes.
        ascend: Whether to ascend the loss.
        num_steps: Integer, or scalar integer tensor.
        step_size: Number, in the units of the images.
        num_classes: Number of logits that an image must have, or None.
        jit_compile: Whether XLA compiles the loop.

    Returns:
        The images after the last step; a boolean `[2]`, what all logits on the way looked like
        (`checks.logits`); and whether no gradient was NaN.
    """
    norm, value_range = ball.norm, ball.value_range
    kind = norm, value_range, loss, num_classes, jit_compile

    def make(reference):
        def descend(*tensors):
            return _descend(prepared(reference()), *kind, *tensors)

        return tf.function(descend, autograph=False)

    if hasattr(logits_fn, "prepare"):
        descend = _descents.get(logits_fn, kind, make)
    else:
        descend = functools.partial(_descend, logits_fn, *kind)
    images, looks, finite = descend(
        images,
        ball.images,
        tf.cast(classes, tf.int32),
        tf.convert_to_tensor(ball.radius, tf.float32),
        tf.convert_to_tensor(step_size, tf.float32) * (1.0 if ascend else -1.0),
        tf.cast(num_steps, tf.int32),
    )
    # Adversarial images are data: no gradient flows back through the attack.
    return tf.stop_gradient(images), looks, finite


def _descend(
    logits_fn,
    norm,
    value_range,
    loss,
    num_classes,
    jit_compile,
    images,
    clean,
    classes,
    radius,
    step_size,
    num_steps,
):
    """`take_steps` with tensors for all that may differ between attacks that share a graph."""
    ball = Ball(clean, radius, value_range, norm)

    def loop(images, classes, step_size, num_steps):
        def step(done, current, looks, finite):
            slope, now = gradient(logits_fn, current, classes, loss, num_classes)
            # sign(NaN) is NaN and would stay in the image; 0 would pass for robustness. So it is
            # noted here, and raised where XLA cannot drop the assertion.
            finite &= ~tf.reduce_any(tf.math.is_nan(slope))
            current = ball.project(current + step_size * ball.ascent(slope))
            return done + 1, current, looks & now, finite

        _, images, looks, finite = tf.while_loop(
            lambda done, *_: done < num_steps,
            step,
            (tf.constant(0), images, tf.constant([True, True]), tf.constant(True)),
            parallel_iterations=1,
        )
        return images, looks & (num_steps > 0) & (tf.size(images) > 0), finite

    # Compiled by itself: assertions and draws around it stay outside, and so do the collectives of
    # a training step, which XLA does not know. Sizes are arguments, so that one program serves all.
    run = compiled(loop) if jit_compile else loop
    return run(images, classes, step_size, num_steps)
