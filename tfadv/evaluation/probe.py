import typing

import numpy as np
import tensorflow as tf

from tfadv import keras_internals, models
from tfadv.attacks.steps import scale_to_range

IMAGES = 32  # enough to see a broken gradient, few beside those of an evaluation
STEPS = 10
DRAWS = 10
# Without bounds any image can be made of any other: steps that cross a pixel's whole range three
# times, and then smaller ones that settle. (Step size in pixels of 255, number of steps.)
UNBOUNDED = (16.0, 50), (4.0, 50)

# The gradient foretells how the loss changes along a step. The step is as long as that change is
# this large, but at most a pixel of 255: well above what 32 bits (and the 19 of a GPU's
# convolutions) round away, and small enough for the network to be nearly linear.
_CHANGE = 0.1
_LEAST_CHANGE = 0.02
_TOLERANCE = 0.3


class Counts(typing.NamedTuple):
    """How many images each of these is true of.

    Args:
        images: All that were looked at.
        dead: Not hit where the attack starts, and there without a gradient, or with one that is not
            finite.
        stuck: The same after a short attack.
        reached: Hit by an attack without bounds.
        sloped: The loss changes enough along the attack's step to be compared with what the
            gradient foretells (none in bfloat16, whose rounding is as large).
        foretold: Of those: the two agree.
        changed: The model itself gives another class than is reported.
        by_noise: Misclassified under one of some draws of noise but not under the short attack.
        by_attack: The other way.
        unit: All outputs that were seen, under all of these attacks, lie in [0, 1].
        signed: They lie in [-1, 1].
        near_one: Some of them are above 0.9 or below -0.9.
    """

    images: int
    dead: int
    stuck: int
    reached: int
    sloped: int
    foretold: int
    changed: int
    by_noise: int
    by_attack: int
    unit: int
    signed: int
    near_one: int


class Probe:
    """Looks closely at the first images of an evaluation and counts what its self-checks ask.

    Args:
        evaluator: An `Evaluator` with an attack that advances.
        network: One of its networks.
        domain: What that network is, `"adv"`, `"clean"` or None.

    Call arguments:
        images, labels, indices: A batch, as of `Evaluator.outcomes`.

    Returns:
        `Counts`.
    """

    counts = Counts

    def __init__(self, evaluator, network, domain):
        self._evaluator = evaluator
        self._network = network
        self._domain = domain or "adv"
        self._range = evaluator.value_range
        self._attack = evaluator.attack
        self._unbounded = evaluator.attack.replace(epsilon=255.0)
        self._look = tf.function(self._gradients_and_losses, autograph=False)
        # Of the layers, since a policy that is set on the whole model does not reach them.
        dtypes = {layer.compute_dtype for layer in keras_internals.flatten_layers(evaluator.model)}
        self._coarse = "bfloat16" in dtypes

    def __call__(self, images, labels, indices):
        images = tf.cast(images, tf.float32)
        self._network.predict(images)  # which tells the number of classes
        draws = [self._start(images, labels, indices, draw) for draw in range(DRAWS)]
        start, goals = draws[0]
        # Whatever the evaluation's step size is, as far as the ball reaches.
        step_size = self._attack.with_steps(STEPS).effective_step_size or 0.0
        step_size = max(step_size, self._attack.epsilon / STEPS)
        adversarial = self._advance(self._attack, images, start, goals, STEPS, step_size)
        wrong = self._network.predict(adversarial).numpy() != labels
        noise = np.any([self._network.predict(x).numpy() != labels for x, _ in draws], axis=0)
        sloped, foretold = self._slopes(images, start, goals)
        reached, farthest = self._reached(images, start, labels, goals)
        outputs = np.concatenate(
            [self._look(x, goals)[2] for x in (images, start, adversarial, farthest)], axis=1
        )
        found = Counts(
            images=np.ones(len(labels), bool),
            dead=self._is_dead(start, labels, goals),
            stuck=self._is_dead(adversarial, labels, goals),
            reached=reached,
            sloped=sloped,
            foretold=foretold,
            changed=self._changed(images) | self._changed(adversarial),
            by_noise=noise & ~wrong,
            by_attack=wrong & ~noise,
            unit=(outputs >= 0).all(axis=1) & (outputs <= 1).all(axis=1),
            signed=(np.abs(outputs) <= 1).all(axis=1),
            near_one=(np.abs(outputs) > 0.9).any(axis=1),
        )
        return Counts(*(int(np.sum(each & (indices >= 0))) for each in found))

    def _start(self, images, labels, indices, draw):
        start, goals = self._evaluator.start(
            images, labels, indices, self._network.num_classes, draw
        )
        return tf.clip_by_value(start, *self._range), goals

    def _advance(self, attack, images, current, goals, num_steps, step_size):
        try:
            return attack.advance(
                self._network, images, current, goals, num_steps, step_size, self._range
            )
        except ValueError:
            # Refused, as where saturated sigmoids pass for probabilities: no reason for an
            # evaluation that has ended well to fail, but such an attack gets nowhere.
            return current

    def _hit(self, images, labels, goals):
        predicted = self._network.predict(images).numpy()
        return predicted == goals.numpy() if self._attack.targeted else predicted != labels

    def _gradients_and_losses(self, images, goals):
        """Of each image: its gradient, as `[batch, pixels]`, its loss, and its logits."""
        gradients = self._attack.gradient(self._network, images, goals)
        logits = tf.cast(self._network(images), tf.float32)
        losses = self._attack.objective(logits, goals)
        return tf.reshape(gradients, [tf.shape(images)[0], -1]), losses, logits

    def _is_dead(self, images, labels, goals):
        gradient = self._look(images, goals)[0].numpy()
        dead = ~gradient.any(axis=1) | ~np.isfinite(gradient).all(axis=1)
        # Where the attack has reached its goal, its loss may well be flat.
        return dead & ~self._hit(images, labels, goals)

    def _reached(self, images, current, labels, goals):
        reached = np.zeros(len(labels), bool)
        for step_size, num_steps in UNBOUNDED:
            current = self._advance(self._unbounded, images, current, goals, num_steps, step_size)
            reached |= self._hit(current, labels, goals)
        return reached, current

    def _slopes(self, images, current, goals):
        """Where the change of the loss along the attack's step can be told, and is foretold."""
        low, high = self._range
        pixel = scale_to_range(1, self._range)
        current = tf.clip_by_value(current, low + pixel, high - pixel)  # free to move either way
        # What the attack does, rather than what it should do.
        step = self._advance(self._unbounded, images, current, goals, 1, 0.01) - current
        slope = np.abs(self._look(current, goals)[0]).sum(axis=1)
        length = np.full_like(slope, pixel)  # where the slope is zero or not finite, too
        np.divide(_CHANGE, 2 * slope, out=length, where=np.isfinite(slope) & (slope > 0))
        length = np.minimum(length, pixel)
        offset = tf.sign(step) * length.reshape([-1] + [1] * (len(step.shape) - 1))
        after, before = (self._look(current + way * offset, goals)[1].numpy() for way in (1, -1))
        change = after - before
        expected = (-2 if self._attack.targeted else 2) * length * slope
        sloped = (np.abs(expected) >= _LEAST_CHANGE) & ~np.bool_(self._coarse)
        return sloped, sloped & (np.abs(change - expected) <= _TOLERANCE * np.abs(expected))

    def _changed(self, images):
        """Where the model as it is now, called as it is, has another class than is reported."""
        reported = self._network.predict(images).numpy()
        outputs = models.call(self._evaluator.model, images, domain=self._domain)
        outputs = tf.cast(outputs, tf.float32).numpy()
        # Several classes may be the largest, where the last activation is saturated.
        of_reported = np.take_along_axis(outputs, np.maximum(reported, 0)[:, None], axis=1)[:, 0]
        return ~(of_reported >= outputs.max(axis=1)) & (reported >= 0)
