"""Attacks that should not do better than the evaluated one, on the same images."""

import typing

import numpy as np
import tensorflow as tf

from tfadv.attacks import PGD
from tfadv.evaluation.probe import Probe

# The usual distance between the largest logit of an image and the mean of its others, and the value
# that other distances are scaled to: there cross entropy neither saturates nor is nearly linear.
_USUAL = 2.0, 10.0


class Counts(typing.NamedTuple):
    """The number of images for which each of these is true, with the fewest steps evaluated.

    Args:
        images: The image was compared.
        right: Classified correctly after the evaluated attack.
        image_right: The same after an attack that starts from the image itself.
        image_beats: Correct after the evaluated attack and wrong after that one.
        image_loses: The other way round.
        scale_right, scale_beats, scale_loses: The same for an attack on logits of a usual scale.
    """

    images: int
    right: int
    image_right: int
    image_beats: int
    image_loses: int
    scale_right: int
    scale_beats: int
    scale_loses: int


class Rivals(Probe):
    """Attacks the images in two other ways: from the image itself, and on rescaled logits.

    Both use the step size and targets of the evaluated attack, and the second also its starts.
    """

    images = 256  # enough to see a difference of ten points, few beside those of most evaluations
    counts = Counts

    def __init__(self, evaluator, network):
        super().__init__(evaluator, network)
        self._row = evaluator.networks.index(network)
        self._logits = tf.function(network.__call__, autograph=False)
        self._rescaled = None

    def _look(self, images, labels, indices):
        outcomes = [self._evaluator.outcomes_by_index.get(index) for index in indices.tolist()]
        known = np.array([each is not None for each in outcomes])
        right = np.array([each is not None and each[self._row, 1, 0] for each in outcomes])
        if not known.any():
            return Counts(*[known] * len(Counts._fields))
        start, goals = self._start(images, labels, indices)
        from_image = right
        if self._evaluator.attack.start_from_clean < 1:
            from_image = self._right_after(self._network, images, images, goals, labels)
        counts = Counts(
            images=known,
            right=right,
            **_compared("image", right, from_image),
            **_compared("scale", right, self._at_usual_scale(images, start, goals, labels, right)),
        )
        return Counts(*(each & known for each in counts))

    def _right_after(self, network, images, current, goals, labels):
        number = self._evaluator.num_steps[0]
        step_size = self._evaluator.step_size(number)
        try:
            [(_, adversarial)] = self._evaluator.advance(
                network, images, current, goals, step_size, [number]
            )
        except ValueError:  # the attack refuses the outputs, as in `GradientProbe`
            adversarial = current
        return self._predict(adversarial) == labels

    def _at_usual_scale(self, images, start, goals, labels, right):
        """Right after an attack on logits of a usual scale; `right` where they have one."""
        if self._evaluator.attack.loss == "margin":  # which does not depend on the scale
            return right
        factors = _usual_factors(self._logits(images).numpy())
        unusual = factors != 1
        if not unusual.any():
            return right
        if self._rescaled is None:
            self._rescaled = _Rescaled(self._network, len(factors))
        self._rescaled.factors.assign(factors[:, None])
        return np.where(
            unusual, self._right_after(self._rescaled, images, start, goals, labels), right
        )


class PGDCounts(typing.NamedTuple):
    """The number of images for which each of these is true.

    Args:
        images: The image was compared.
        right: Classified correctly after the evaluated attack.
        pgd_right: The same after PGD.
        pgd_beats: Correct after the evaluated attack and wrong after PGD.
        pgd_loses: The other way round.
    """

    images: int
    right: int
    pgd_right: int
    pgd_beats: int
    pgd_loses: int


class PGDRival(Probe):
    """Attacks the images with untargeted PGD, which an attack that is not PGD may undercut."""

    images = Rivals.images
    counts = PGDCounts
    steps = 20

    def __init__(self, evaluator, network):
        super().__init__(evaluator, network)
        self._row = evaluator.networks.index(network)
        attack = evaluator.attack
        # The usual step size of PGD-20. Without an epsilon there is no attack.
        self._pgd = attack.epsilon and PGD(
            attack.epsilon,
            attack.epsilon / 4,
            self.steps,
            targeted=False,
            step_size_rule="fixed",
            jit_compile=attack.jit_compile,
            clip_start=True,
            norm=attack.norm,
        )

    def _look(self, images, labels, indices):
        outcomes = [self._evaluator.outcomes_by_index.get(index) for index in indices.tolist()]
        known = np.array([each is not None for each in outcomes])
        right = np.array([each is not None and each[self._row, -1, 0] for each in outcomes])
        right_after_pgd = right
        if self._pgd:
            keys = np.stack([np.full(len(indices), self._evaluator.seed, np.int64), indices], 1)
            try:
                adversarial = self._pgd(
                    self._network,
                    images,
                    labels,
                    value_range=self._range,
                    seed=tf.constant(keys),
                    num_classes=self._network.num_classes,
                )
                right_after_pgd = self._predict(adversarial) == labels
            except ValueError:  # PGD refuses the outputs, or they have no gradient
                pass
        counts = PGDCounts(known, right, **_compared("pgd", right, right_after_pgd))
        return PGDCounts(*(each & known for each in counts))


class _Rescaled:
    """A network whose logits are multiplied by a factor for each image of a batch."""

    def __init__(self, network, batch_size):
        self._network = network
        self.factors = tf.Variable(tf.ones([batch_size, 1]), trainable=False)

    def __call__(self, images):
        return self.prepare()(images)

    def prepare(self):
        """Returns a function images -> logits, as `tfadv.models.Frozen.prepare` does."""
        prepared = self._network.prepare()
        return lambda images: tf.cast(prepared(images), tf.float32) * self.factors


def _usual_factors(logits):
    """The factors, float32 `[batch]`, that scale logits as usual; 1 where they are."""
    logits = logits.astype(np.float32)
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
