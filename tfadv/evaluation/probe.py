"""Further attacks on the first images of an evaluation, which its self-checks compare with it."""

import abc
import typing

import numpy as np
import tensorflow as tf

from tfadv import keras_internals, models
from tfadv.attacks import steps as attack_steps
from tfadv.attacks.steps import scale_to_range

IMAGES = 32  # enough to see a broken gradient, few beside those of an evaluation
STEPS = 10
DRAWS = 10
# Without bounds any image can become any other one: first steps that can cross the range of a pixel
# three times, then smaller ones that settle. (Step size in pixels of 255, number of steps.)
UNBOUNDED = (16.0, 50), (4.0, 50)

# The gradient predicts how the loss changes along a step. The step is so long that the predicted
# change is `_CHANGE`, but at most a pixel of 255: then the network is nearly linear along it, and
# the change is well above the rounding of 32 bits (and of the 19 bits of a GPU's convolutions).
_CHANGE = 0.1
_LEAST_CHANGE = 0.02
_TOLERANCE = 0.3

# How much logits may change from pass to pass, as a share of the largest one: far more than
# rounding does, far less than a network that is random on purpose.
_VARIATION = 1e-4


class Probe(abc.ABC):
    """Attacks a batch of an evaluation's first images once more and returns `counts` of them.

    Args:
        evaluator: An `Evaluator` with an attack that advances, after its last call.
        network: One of its networks.
    """

    images: int  # how many of the first images to attack
    counts: type  # the `NamedTuple` of the counts

    def __init__(self, evaluator, network):
        self._evaluator = evaluator
        self._network = network
        self._attack = evaluator.attack
        self._range = evaluator.value_range

    def __call__(self, images, labels, indices):
        images = tf.cast(images, tf.float32)
        self._network.predict(images)  # which finds out the number of classes
        flags = self._look(images, labels, indices)
        return self.counts(*(int(np.sum(each & (indices >= 0))) for each in flags))

    @abc.abstractmethod
    def _look(self, images, labels, indices):
        """Returns `counts` of boolean arrays `[batch]`."""

    def _start(self, images, labels, indices, restart=0):
        return self._evaluator.start(images, labels, indices, self._network.num_classes, restart)

    def _predict(self, images):
        return self._network.predict(images).numpy()

    def _changed(self, images):
        """Whether the model as it is now, outside of compiled graphs, gives another class."""
        reported = self._predict(images)
        outputs = models.call(self._evaluator.model, images, domain=self._network.branch)
        outputs = tf.cast(outputs, tf.float32).numpy()
        # Several classes may be the largest, where the last activation is saturated.
        of_reported = np.take_along_axis(outputs, np.maximum(reported, 0)[:, None], axis=1)[:, 0]
        return ~(of_reported >= outputs.max(axis=1)) & (reported >= 0)


class Counts(typing.NamedTuple):
    """The number of images for which each of these is true.

    Args:
        images: The image was looked at.
        dead: The attack has not succeeded at its start, and has no gradient there, or one that is
            not finite.
        stuck: The same after a short attack.
        reached: An attack without bounds succeeds.
        sloped: The loss changes enough along the attack's step to be compared with what the
            gradient predicts (never in bfloat16, whose rounding is as large).
        foretold: It does, and the two agree.
        changed: The model itself gives another class than the reported one.
        by_noise: Misclassified under one of some draws of noise, but not under the short attack.
        by_attack: The other way round.
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


class GradientProbe(Probe):
    """Looks at gradients, at noise, and at an attack without bounds."""

    images = IMAGES
    counts = Counts

    def __init__(self, evaluator, network):
        super().__init__(evaluator, network)
        self._unbounded = evaluator.attack.replace(epsilon=255.0)
        self._gradients = tf.function(self._gradients_losses_and_logits, autograph=False)
        # The policies of the layers, which may differ from that of the model.
        dtypes = {layer.compute_dtype for layer in keras_internals.flatten_layers(evaluator.model)}
        self._is_coarse = "bfloat16" in dtypes

    def _look(self, images, labels, indices):
        draws = [self._clipped_start(images, labels, indices, draw) for draw in range(DRAWS)]
        start, goals = draws[0]
        # Large enough to cross the ball, whatever the evaluation's step size is.
        step_size = self._attack.with_steps(STEPS).effective_step_size or 0.0
        step_size = max(step_size, self._attack.epsilon / STEPS)
        adversarial = self._advance(self._attack, images, start, goals, STEPS, step_size)
        wrong = self._predict(adversarial) != labels
        noise = np.any([self._predict(x) != labels for x, _ in draws], axis=0)
        sloped, foretold = self._slopes(images, start, goals)
        reached, farthest = self._reached(images, start, labels, goals)
        outputs = np.concatenate(
            [self._gradients(x, goals)[2] for x in (images, start, adversarial, farthest)], axis=1
        )
        return Counts(
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

    def _clipped_start(self, images, labels, indices, draw):
        start, goals = self._start(images, labels, indices, draw)
        return tf.clip_by_value(start, *self._range), goals

    def _advance_unbounded(self, images, current, goals, num_steps, pixels):
        """Takes steps that change each pixel by about so many pixels of 255."""
        step_size = pixels
        if self._attack.norm == "l2":
            step_size *= float(np.sqrt(np.prod(images.shape[1:]))) / 255
        return self._advance(self._unbounded, images, current, goals, num_steps, step_size)

    def _advance(self, attack, images, current, goals, num_steps, step_size):
        try:
            return attack.advance(
                self._network, images, current, goals, num_steps, step_size, self._range
            )
        except ValueError:
            # The attack refuses the outputs, such as saturated sigmoids that pass for
            # probabilities. The evaluation itself ended well, so this must not end it.
            return current

    def _hit(self, images, labels, goals):
        predicted = self._predict(images)
        return predicted == goals.numpy() if self._attack.targeted else predicted != labels

    def _gradients_losses_and_logits(self, images, goals):
        """For each image: its gradient `[batch, pixels]`, its loss, and its logits."""
        gradients = self._attack.gradient(self._network, images, goals)
        logits = tf.cast(self._network(images), tf.float32)
        losses = self._attack.objective(logits, goals)
        return tf.reshape(gradients, [tf.shape(images)[0], -1]), losses, logits

    def _is_dead(self, images, labels, goals):
        gradient = self._gradients(images, goals)[0].numpy()
        dead = ~gradient.any(axis=1) | ~np.isfinite(gradient).all(axis=1)
        # Where the attack has reached its goal, its loss may well be flat.
        return dead & ~self._hit(images, labels, goals)

    def _reached(self, images, current, labels, goals):
        reached = np.zeros(len(labels), bool)
        for step_size, num_steps in UNBOUNDED:
            current = self._advance_unbounded(images, current, goals, num_steps, step_size)
            reached |= self._hit(current, labels, goals)
        return reached, current

    def _slopes(self, images, current, goals):
        """Whether the loss changes enough along the attack's step, and as its gradient predicts."""
        low, high = self._range
        pixel = scale_to_range(1, self._range)
        current = tf.clip_by_value(current, low + pixel, high - pixel)  # free to move either way
        # The attack's own step, which need not be the sign of the gradient.
        step = self._advance_unbounded(images, current, goals, 1, 0.01) - current
        slope = np.abs(self._gradients(current, goals)[0]).sum(axis=1)
        length = np.full_like(slope, pixel)  # where the slope is zero or not finite, too
        np.divide(_CHANGE, 2 * slope, out=length, where=np.isfinite(slope) & (slope > 0))
        length = np.minimum(length, pixel)
        offset = tf.sign(step) * length.reshape([-1] + [1] * (len(step.shape) - 1))
        after, before = (
            self._gradients(current + way * offset, goals)[1].numpy() for way in (1, -1)
        )
        change = after - before
        expected = (-2 if self._attack.targeted else 2) * length * slope
        sloped = (np.abs(expected) >= _LEAST_CHANGE) & ~np.bool_(self._is_coarse)
        return sloped, sloped & (np.abs(change - expected) <= _TOLERANCE * np.abs(expected))


class NetworkCounts(typing.NamedTuple):
    """The number of images for which each of these is true.

    Args:
        images: The image was looked at.
        flat: Classified correctly, and cross entropy has no gradient at the image, or one that is
            not finite.
        varied: A second pass gives other logits.
        changed: The model itself gives another class than the reported one.
        unit: All outputs for the image and its negative lie in [0, 1].
        signed: They lie in [-1, 1].
        near_one: Some of them are above 0.9 or below -0.9.
    """

    images: int
    flat: int
    varied: int
    changed: int
    unit: int
    signed: int
    near_one: int


class NetworkProbe(Probe):
    """Looks at the network alone, for attacks whose steps cannot be followed."""

    images = IMAGES
    counts = NetworkCounts

    def __init__(self, evaluator, network):
        super().__init__(evaluator, network)
        self._logits = tf.function(network.__call__, autograph=False)
        self._gradients = tf.function(self._gradient, autograph=False)

    def _look(self, images, labels, indices):
        low, high = self._range
        first, second, negative = (
            tf.cast(self._logits(each), tf.float32).numpy()
            for each in (images, images, low + high - images)
        )
        outputs = np.concatenate([first, negative], axis=1)
        largest = np.abs(outputs).max(axis=1)
        return NetworkCounts(
            images=np.ones(len(labels), bool),
            flat=self._is_flat(images, labels) & (self._predict(images) == labels),
            varied=np.abs(second - first).max(axis=1) > _VARIATION * largest,
            changed=self._changed(images),
            unit=(outputs >= 0).all(axis=1) & (outputs <= 1).all(axis=1),
            signed=largest <= 1,
            near_one=largest > 0.9,
        )

    def _is_flat(self, images, labels):
        try:
            gradient = self._gradients(images, tf.constant(labels)).numpy()
        except ValueError:  # there is none at all
            return np.ones(len(labels), bool)
        return ~gradient.any(axis=1) | ~np.isfinite(gradient).all(axis=1)

    def _gradient(self, images, labels):
        gradient, _ = attack_steps.gradient(
            self._network, images, labels, attack_steps.cross_entropy
        )
        return tf.reshape(gradient, [tf.shape(images)[0], -1])
