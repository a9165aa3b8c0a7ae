"""What a careful reviewer would ask of an evaluation, asked by the evaluation itself."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfadv import distributed

# Images that the checks with attacks of their own look at: enough to see a broken gradient, few
# beside those of an evaluation.
CHECKED = 32
# An unbounded attack may make any image of any other; this many steps of this size cross the whole
# range of a pixel ten times.
UNBOUNDED = dict(epsilon=255.0, num_steps=100, step_size=25.5)


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A reason not to believe an evaluation.

    Args:
        check: Name of the check that gave it.
        domain: The branch that it is about, as of `Result`.
        message: One line: what was measured, what it may mean, what to try.
    """

    check: str
    domain: str | None
    message: str

    def __str__(self):
        where = f" ({self.domain} branch)" if self.domain else ""
        return f"{self.check}{where}: {self.message}"


def doubts(evaluator, results, data, batch_size=64, limit=None):
    """Checks an evaluation as Carlini et al. ("On evaluating adversarial robustness") advise.

    - `vanishing gradient`: images at which the attack's loss has no gradient, or none that is
      finite, cannot be attacked by it.
    - `wrong gradient`: the attack's step is not the sign of the gradient of the network that is
      reported, so that another network, or another branch, is attacked.
    - `unbounded attack`: an attack that may change pixels at will must reach its goal.
    - `more steps`: more steps, or an attack at all, must not leave more images right.
    - `clean branch`: the accuracy under attack of a mixture's clean branch is not that of the
      model, whose `predict` is the adv branch.

    The first three look at the first 32 images, with 100 attack steps on them.

    Args:
        evaluator: An `Evaluator`.
        results: What it returned.
        data, batch_size, limit: What it was called with.

    Returns:
        A list of `Doubt`, the same on every worker; empty if there is none.
    """
    if evaluator.attack is None:
        return []
    found = []
    source = evaluator.open(data, batch_size, limit)
    counts = np.zeros([len(evaluator.domains), len(_COUNTS)])
    for batch in source.batches():
        # A worker's images come in the order of their index, and padding is at a batch's end.
        if batch is None or batch[2][0] >= CHECKED:
            break
        for row, network in zip(counts, evaluator.networks, strict=True):
            row += _probe(evaluator, network, *batch)
    counts = distributed.total(counts.ravel()).reshape(counts.shape)
    for domain, row in zip(evaluator.domains, counts, strict=True):
        found += _of_gradients(domain, dict(zip(_COUNTS, row, strict=True)))
        found += _of_steps([result for result in results if result.domain == domain])
    if evaluator.domains == ["clean"]:
        found.append(
            Doubt(
                "clean branch",
                "clean",
                "the clean branch alone was attacked and reported; the model's predictions are the "
                "adv branch's, whose robustness this is not (domain=adv or both)",
            )
        )
    return found


_COUNTS = ("images", "dead", "hits", "followed", "whole")


def _probe(evaluator, network, images, labels, indices):
    """The `_COUNTS` of a batch."""
    attack = evaluator.attack.replace(restarts=1, step_size_rule="fixed", **UNBOUNDED)
    looked = (indices >= 0) & (indices < CHECKED)
    images = tf.cast(images, tf.float32)
    network.predict(images)  # which tells the number of classes
    # Not the image itself, at which even a network that masks its gradients may have one.
    start, goals = evaluator.start(images, labels, indices, network.num_classes)
    low, high = evaluator.value_range
    start = tf.clip_by_value(start, low, high)
    slope = tf.function(functools.partial(attack.gradient, network), autograph=False)
    gradient = slope(start, goals).numpy()
    step = attack.advance(network, images, start, goals, 1, 1e-2, evaluator.value_range)
    # Pixels at the end of the range may not move.
    inside = np.logical_and(start > low + (high - low) * 1e-4, start < high - (high - low) * 1e-4)
    sign = -1 if attack.targeted else 1
    agreement = sign * gradient * np.sign(step - start) * inside
    end = attack.advance(
        network, images, step, goals, attack.num_steps, attack.step_size, evaluator.value_range
    )
    predicted = network.predict(end).numpy()
    hit = predicted == goals.numpy() if attack.targeted else predicted != labels

    def by_image(values):
        return values.reshape(len(looked), -1)

    dead = ~np.isfinite(by_image(gradient)).all(axis=1) | ~by_image(gradient).any(axis=1)
    size = np.abs(by_image(gradient * inside)).sum(axis=1)
    alive = looked & ~dead & (size > 0)
    # As shares of each image's gradient, so that no image outweighs the others.
    followed = by_image(agreement).sum(axis=1)[alive] / size[alive]
    return looked.sum(), (dead & looked).sum(), (hit & looked).sum(), followed.sum(), alive.sum()


def _of_gradients(domain, count):
    images, hits = int(count["images"]), int(count["hits"])
    if count["dead"]:
        yield Doubt(
            "vanishing gradient",
            domain,
            f"{int(count['dead'])} of {images} images have no gradient, or none that is finite; an "
            "attack by gradients says nothing of them (operations without a derivative, saturated "
            "outputs? try attack_loss=margin, or an attack without gradients)",
        )
    if count["whole"] and count["followed"] < 0.9 * count["whole"]:
        yield Doubt(
            "wrong gradient",
            domain,
            f"the attack's step follows {100 * count['followed'] / count['whole']:.0f}% of the "
            "gradient of the network that is reported; another network or branch is attacked",
        )
    if hits < images:
        yield Doubt(
            "unbounded attack",
            domain,
            f"with epsilon 255 it succeeds on {hits} of {images} images in place of all; its "
            "gradients may mislead it (try restarts, attack_loss=margin, targeted=false)",
        )


def _of_steps(results):
    results = sorted(results, key=lambda result: result.num_steps)
    for i, more in enumerate(results):
        for fewer in results[:i]:
            # The same images are counted twice, which only makes true differences surer than this.
            share = (more.correct + fewer.correct) / (2 * more.total)
            deviation = math.sqrt(2 * share * (1 - share) / more.total)
            if more.accuracy - fewer.accuracy > 2 * deviation:
                yield Doubt(
                    "more steps",
                    more.domain,
                    f"{more.name} leaves {100 * more.accuracy:.1f}% right and {fewer.name} "
                    f"{100 * fewer.accuracy:.1f}%; the attack overshoots or its gradients mislead "
                    "it (try a smaller step size, restarts, attack_loss=margin)",
                )
                break
