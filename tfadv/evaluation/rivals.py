"""Attacks that should not do better than the one that was evaluated, on the same images."""

import typing

import numpy as np
import tensorflow as tf

# Enough for a difference of ten points, few beside those of most evaluations.
IMAGES = 256

# How far the largest logit of an image usually stands above the mean of the others, and what it is
# brought to where it stands otherwise: there cross entropy neither saturates nor is nearly linear.
_USUAL = 2.0, 10.0


class Counts(typing.NamedTuple):
    """How many images each of these is true of.

    Args:
        images: All that were compared.
        right: Classified right after the attack that was evaluated, of the fewest steps.
        image_right: The same, started from the image itself.
        image_beats: Right after the one that was evaluated and wrong from the image.
        image_loses: The other way.
        scale_right, scale_beats, scale_loses: The same of an attack on logits of a usual scale.
    """

    images: int
    right: int
    image_right: int
    image_beats: int
    image_loses: int
    scale_right: int
    scale_beats: int
    scale_loses: int


class Rivals:
    """Attacks the first images of an evaluation once more, in two other ways.

    Each with the fewest steps that were evaluated, with their step size, targets and, but for the
    one that starts from the image, starts.

    Args:
        evaluator: An `Evaluator` with an attack that advances, which was called.
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
        self._row = evaluator.domains.index(domain)
        self._logits = tf.function(network.__call__, autograph=False)
        self._rescaled = None

    def __call__(self, images, labels, indices):
        images = tf.cast(images, tf.float32)
        known = self._evaluator.outcomes_by_index
        real = np.array([index >= 0 and index in known for index in indices.tolist()])
        right = np.array(
            [
                bool(is_real and known[index][self._row, 1, 0])
                for index, is_real in zip(indices.tolist(), real, strict=True)
            ]
        )
        if not real.any():
            return Counts(*[0] * len(Counts._fields))
        start, goals = self._evaluator.start(images, labels, indices, self._network.num_classes)
        from_image = right
        if self._evaluator.attack.start_from_clean < 1:
            from_image = self._right_after(self._network, images, images, goals, labels)
        counts = Counts(
            images=real,
            right=right,
            **_compared("image", right, from_image),
            **_compared("scale", right, self._at_usual_scale(images, start, goals, labels, right)),
        )
        return Counts(*(int(np.sum(each & real)) for each in counts))

    def _right_after(self, network, images, current, goals, labels):
        number = self._evaluator.num_steps[0]
        step_size = self._evaluator.step_size(number)
        try:
            [(_, adversarial)] = self._evaluator.advance(
                network, images, current, goals, step_size, [number]
            )
        except ValueError:  # refused: it gets nowhere, as in a `Probe`
            adversarial = current
        return self._network.predict(adversarial).numpy() == labels

    def _at_usual_scale(self, images, start, goals, labels, right):
        """What is right after an attack on logits of a usual scale; `right` where they are so."""
        if self._evaluator.attack.loss == "margin":  # which knows no scale
            return right
        factors = usual_factors(self._logits(images).numpy())
        unusual = factors != 1
        if not unusual.any():
            return right
        if self._rescaled is None:
            self._rescaled = Rescaled(self._network, len(factors))
        self._rescaled.factors.assign(factors[:, None])
        return np.where(
            unusual, self._right_after(self._rescaled, images, start, goals, labels), right
        )


class Rescaled:
    """A network whose logits are multiplied, by a factor for each image of a batch."""

    def __init__(self, network, batch_size):
        self._network = network
        self.factors = tf.Variable(tf.ones([batch_size, 1]), trainable=False)

    def __call__(self, images):
        return self.prepare()(images)

    def prepare(self):
        """The function images -> logits, as of `tfadv.models.Frozen`."""
        prepared = self._network.prepare()
        return lambda images: tf.cast(prepared(images), tf.float32) * self.factors


def usual_factors(logits):
    """What brings each row of logits to a usual scale, float32 `[batch]`; 1 where it has one."""
    logits = np.asarray(logits, np.float32)
    top = logits.max(axis=1)
    spread = top - (logits.sum(axis=1) - top) / (logits.shape[1] - 1)
    low, high = _USUAL
    unusual = np.isfinite(spread) & ((spread < low) | (spread > high)) & (spread > 0)
    return np.where(unusual, high / np.where(unusual, spread, 1), 1).astype(np.float32)


def _compared(name, right, rival):
    return {
        f"{name}_right": rival,
        f"{name}_beats": right & ~rival,
        f"{name}_loses": ~right & rival,
    }
