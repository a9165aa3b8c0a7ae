"""The loop of projected gradient steps, in the graph."""

import tensorflow as tf

from tfadv.attacks import checks
from tfadv.attacks.projections import project

# The step takes the gradient's sign alone, so a power of two changes nothing in float32 and
# bfloat16, but it keeps the small gradients of a float16 network from becoming zero (pipeline).
LOSS_SCALE = 128.0


def gradient(logits_fn, images, classes, loss, num_classes=None):
    """Gradient of the summed loss to the images, to nothing else.

    Args:
        logits_fn: Function, images -> logits `[batch, classes]`.
        images: Float32 `[batch, ...]`.
        classes: Integers `[batch]`, what the loss looks at.
        loss: Function of float32 logits and classes, one of `losses.LOSSES`.
        num_classes: How many logits an image must have, if that is known.

    Returns:
        The gradient, float32 in the shape of `images`, times `LOSS_SCALE`; and a boolean `[2]`,
        what the logits look like (`checks.logits`).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits, looks = checks.logits(logits_fn(images), images, num_classes)
        values = loss(logits, classes) * LOSS_SCALE
    slope = tape.gradient(values, images)
    if slope is None:
        inputs = getattr(logits_fn, "inputs", None) or [images]
        dtype = tf.as_dtype(inputs[0].dtype).name
        reason = "" if "int" not in dtype else f" (its input is {dtype}: cast the images to float)"
        raise ValueError(f"logits_fn must be differentiable; its logits have no gradient{reason}")
    return tf.convert_to_tensor(slope), looks


def prepared(logits_fn):
    """A network that has something to prepare (`tfadv.models.Frozen`), prepared; others as is."""
    return logits_fn.prepare() if hasattr(logits_fn, "prepare") else logits_fn


def take_steps(
    logits_fn,
    images,
    bounds,
    classes,
    *,
    loss,
    ascend,
    num_steps,
    step_size,
    num_classes,
    jit_compile,
):
    """Takes `num_steps` signed gradient steps from `images`, each clipped into `bounds`.

    `x <- clip(x -+ step_size * sign(gradient), lower, upper)`, minus to descend.

    Args:
        logits_fn: Function, images -> logits `[batch, classes]`.
        images: Float32 `[batch, ...]`, where to go on from; need not lie inside the bounds.
        bounds: Lower and upper bound of each pixel.
        classes: Integers `[batch]`.
        loss: Function of float32 logits and classes.
        ascend: Whether to ascend the loss.
        num_steps: Integer, or scalar integer tensor.
        step_size: Number, in the units of the images.
        num_classes: How many logits an image must have, or None.
        jit_compile: Whether XLA compiles the loop.

    Returns:
        The images after the last step; a boolean `[2]`, what all logits on the way looked like
        (`checks.logits`); and whether no gradient was NaN.
    """

    logits_fn = prepared(logits_fn)  # once for all steps

    def loop(images, lower, upper, classes, step_size, num_steps):
        def step(done, current, looks, finite):
            slope, now = gradient(logits_fn, current, classes, loss, num_classes)
            # sign(NaN) is NaN and would stay in the image; 0 would pass for robustness. So it is
            # noted here, and raised where XLA cannot drop the assertion.
            finite &= ~tf.reduce_any(tf.math.is_nan(slope))
            current = project(current + step_size * tf.sign(slope), (lower, upper))
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
    run = tf.function(loop, jit_compile=True, autograph=False) if jit_compile else loop
    images, looks, finite = run(
        images,
        *bounds,
        classes,
        tf.convert_to_tensor(step_size, tf.float32) * (1.0 if ascend else -1.0),
        tf.cast(num_steps, tf.int32),
    )
    # Adversarial images are data: no gradient flows back through the attack.
    return tf.stop_gradient(images), looks, finite
