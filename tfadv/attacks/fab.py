"""A search for the nearest image that fools the network (Croce and Hein, ICML 2020)."""

import tensorflow as tf

from tfadv.arguments import integer
from tfadv.attacks import checks, random_draws, steps
from tfadv.attacks.untargeted import UntargetedAttack

# Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
# arXiv 1907.02044, and the authors' implementation in AutoAttack.
_OVERSHOOT = 1.05  # eta
_LARGEST_BIAS = 0.1  # alpha_max, how much a step may be drawn to the image itself
_BACKWARD = 0.9  # beta, how far an adversarial point stays away from the image


class FAB(UntargetedAttack):
    """Fast adaptive boundary attack, which looks for the smallest change that fools the network.

    Each step linearizes the difference `z_t - z_k` of the logits of target and label, and projects
    both the current point `x` and the image `x_0` onto the plane where it is zero, within the pixel
    range. It moves to

    `(1 - a) * (x + 1.05 * d) + a * (x_0 + 1.05 * d_0)`,

    `d` and `d_0` the two projections' steps and `a = min(|d| / (|d| + |d_0|), 0.1)`. From a point
    that fools the network it goes back by a tenth of its distance from the image.

    An image's result is the nearest point that fools the network, projected onto the ball of
    epsilon: that only matters if it lies outside, where it need not fool the network any more.

    Args:
        epsilon: Largest change: of a pixel, in pixels of 255, if `norm` is `"linf"`; if it is
            `"l2"`, of the whole image, as the field writes it, for images from 0 to 1.
        num_steps: Number of steps. Each costs two passes forward and one back.
        num_targets: Number of classes to aim at: those with the largest logits for the image itself
            besides its label, or all others if there are fewer. With None each step aims at the
            class whose plane is nearest, at a pass forward and back for each class.
        restarts: Number of attacks on each image and target. The first starts from the image, the
            others from noise of half of epsilon.
        norm: `"linf"` or `"l2"`.
        jit_compile: Whether XLA compiles the loop of steps. None: only where TensorFlow sees a GPU.

    Example:

    ```python
    attack = tfadv.attacks.FAB(epsilon=8, num_steps=5, num_targets=2)
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    num_steps: int
    _broken = "the gradient of the logits to the images"

    def __init__(
        self,
        epsilon: float = 16.0,
        num_steps: int = 100,
        num_targets: int | None = 9,
        restarts: int = 1,
        norm: str = "linf",
        jit_compile: bool | None = None,
    ):
        super().__init__(epsilon, norm, restarts, jit_compile)
        self.num_steps = integer("num_steps", num_steps, 1)
        if num_targets is not None:
            num_targets = integer("num_targets", num_targets, 1)
        self.num_targets = num_targets

    @property
    def label(self) -> str:
        return "FAB" if self.num_targets is None else "FAB-T"

    def _passes(self) -> int:
        return super()._passes() + self.num_steps

    def _search(self, logits_fn, ball, labels, targets, restart, key, value_range):
        logits_fn = steps.prepared(logits_fn)
        noise = random_draws.random_direction(ball.images, key, ball.norm) * (ball.radius / 2)
        start = tf.where(restart > 0, ball.images + noise, ball.images)
        start = tf.clip_by_value(start, *value_range)

        def loop(start, images, labels, targets):
            targets = None if self.num_targets is None else targets
            return self._steps(logits_fn, start, images, labels, targets, value_range)

        return self._loop(loop)(start, ball.images, labels, labels if targets is None else targets)

    def _steps(self, logits_fn, start, images, labels, targets, value_range):
        low, high = value_range

        def step(done, points, nearest, distance, looks, finite):
            slope, values, now = self._plane(logits_fn, points, labels, targets)
            finite &= ~tf.reduce_any(tf.math.is_nan(slope))
            both = [points, images]
            # The plane is that of the current point: seen from the image, its value is another one.
            offset = tf.reduce_sum(slope * (images - points), _axes(images))
            moves = [
                onto_plane(slope, value, at, low, high, self.norm)
                for at, value in zip(both, [values, values + offset], strict=True)
            ]
            lengths = [tf.maximum(steps.length(move, self.norm), 1e-8) for move in moves]
            bias = tf.minimum(lengths[0] / (lengths[0] + lengths[1]), _LARGEST_BIAS)
            ends = [at + _OVERSHOOT * move for at, move in zip(both, moves, strict=True)]
            points = tf.clip_by_value((1 - bias) * ends[0] + bias * ends[1], low, high)

            logits, later = checks.logits(logits_fn(points), points)
            fooled = tf.argmax(logits, axis=-1, output_type=labels.dtype) != labels
            fooled = tf.reshape(fooled, tf.shape(distance))
            away = steps.length(points - images, self.norm)
            nearer = fooled & (away < distance)
            nearest = tf.where(nearer, points, nearest)
            distance = tf.where(nearer, away, distance)
            points = tf.where(fooled, images + _BACKWARD * (points - images), points)
            return done + 1, points, nearest, distance, looks & now & later, finite

        first = tf.fill(tf.shape(steps.length(images, self.norm)), float("inf"))
        state = (tf.constant(0), start, images, first, tf.constant([True, True]), tf.constant(True))
        state = tf.while_loop(
            lambda done, *_: done < self.num_steps, step, state, parallel_iterations=1
        )
        return state[2], *state[4:]

    def _plane(self, logits_fn, points, labels, targets):
        """The gradient of the difference to the target's logit, and the difference `[batch]`."""

        def linearize(classes):
            slope, values, _, looks = steps.value_and_gradient(
                logits_fn, points, lambda logits: steps.difference(logits, labels, classes)
            )
            return slope / steps.LOSS_SCALE, values, looks

        if targets is not None:
            return linearize(targets)

        def nearer(number, distance, slope, values, looks):
            classes = tf.zeros_like(labels) + tf.cast(number, labels.dtype)
            new_slope, new_values, now = linearize(classes)
            # The dual norm of the gradient is how fast the difference changes.
            axes = _axes(points)
            if self.norm == "linf":
                speed = tf.reduce_sum(tf.abs(new_slope), axes)
            else:
                speed = tf.sqrt(tf.reduce_sum(new_slope**2, axes))
            away = tf.abs(new_values) / (speed + 1e-12)
            better = (classes != labels) & (away < distance)
            return (
                number + 1,
                tf.where(better, away, distance),
                tf.where(tf.reshape(better, [-1] + [1] * len(axes)), new_slope, slope),
                tf.where(better, new_values, values),
                looks & now,
            )

        logits, looks = checks.logits(logits_fn(points), points)
        nothing = tf.zeros_like(logits[:, 0])
        _, _, slope, values, looks = tf.while_loop(
            lambda number, *_: number < tf.shape(logits)[-1],
            nearer,
            (tf.constant(0), nothing + float("inf"), tf.zeros_like(points), nothing, looks),
            parallel_iterations=1,
        )
        return slope, values, looks


def onto_plane(
    slope: tf.Tensor, values: tf.Tensor, points: tf.Tensor, low: float, high: float, norm: str
) -> tf.Tensor:
    """Computes the shortest step of each point to the plane where a linear function is zero.

    `min |d|` so that `values + sum(slope * d) = 0` and `low <= points + d <= high`. If the range
    does not reach the plane, the step to its corner nearest to the plane.

    The solution is `d_i = -+ min(u * v_i, room_i)`, with `v_i = 1` for L-infinity and `|slope_i|`
    for L2, `room_i` the way to the end of the range, and one number `u` for the point: the root of
    a concave function of straight pieces, which Newton's method finds exactly, from below.

    Args:
        slope: Float32 `[batch, ...]`, the gradient of the function.
        values: Float32 `[batch]`, its values at the points.
        points: Float32 `[batch, ...]`, inside the range.
        low, high: The range.
        norm: `"linf"` or `"l2"`.

    Returns:
        float32 in the shape of `points`.
    """
    axes = _axes(points)
    weights = tf.abs(slope)
    upward = tf.sign(slope) * tf.reshape(-tf.sign(values), [-1] + [1] * len(axes))
    room = tf.where(upward > 0, high - points, points - low) * tf.abs(upward)
    speed = tf.ones_like(points) if norm == "linf" else weights
    needed = tf.abs(values)

    def newton(unit, _):
        wide = tf.reshape(unit, [-1] + [1] * len(axes))
        free = (wide * speed < room) & (weights > 0)
        covered = tf.reduce_sum(tf.where(free, 0.0, weights * room), axes)
        rate = tf.reduce_sum(tf.where(free, weights * speed, 0.0), axes)
        # Without a free pixel the range ends before the plane.
        new = tf.where(rate > 0, tf.math.divide_no_nan(needed - covered, rate), unit)
        new = tf.maximum(new, unit)  # but for rounding it only grows
        return new, tf.reduce_any(new > unit)

    unit, _ = tf.while_loop(
        lambda _, moved: moved,
        newton,
        (tf.zeros_like(values), tf.constant(True)),
        parallel_iterations=1,
    )
    wide = tf.reshape(unit, [-1] + [1] * len(axes))
    return upward * tf.minimum(wide * speed, room)


def _axes(images):
    return list(range(1, images.shape.rank))
