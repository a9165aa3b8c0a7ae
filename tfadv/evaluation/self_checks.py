"""The questions that a careful reviewer would ask of an evaluation."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfadv import distributed
from tfadv.attacks import Square
from tfadv.evaluation import probe, rivals
from tfadv.evaluation.evaluator import Evaluator
from tfadv.results import Result

# One of 32 images may be a special case; two are a pattern.
_TOLERATED = 0.05
_TOLERATED_WITHOUT_GRADIENT = 0.002
# The significance of each test of two counts. An evaluation makes about a dozen such tests, so
# chance alone raises a doubt in one evaluation of a hundred.
_SIGNIFICANCE = 0.001


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A reason not to trust an evaluation.

    Args:
        check: Name of the check that raised it.
        domain: The branch that it is about, as of `Result`.
        message: One line: what was measured, what it may mean, what to try.
    """

    check: str
    domain: str | None
    message: str

    def __str__(self) -> str:
        branch = f" ({self.domain} branch)" if self.domain else ""
        return f"{self.check}{branch}: {self.message}"


def doubts(
    evaluator: Evaluator,
    results: list[Result],
    data: Any = None,
    batch_size: int = 64,
    limit: int | None = None,
    others: Iterable[tuple[list[Result], np.ndarray | None]] = (),
) -> list[Doubt]:
    """Checks an evaluation as Carlini et al. ("On evaluating adversarial robustness") advise.

    These checks need the results only:

    - `more steps`: more steps, or an attack at all, must not leave more images correctly
      classified. The same images are compared, with McNemar's test: exact, one-sided, at 0.001.
    - `other branch`: the accuracy under attack of a mixture's clean branch is not that of the
      model, whose `predict` is the adv branch.
    - `no gradient needed`: of the parts of AutoAttack, the square attack, which knows no gradient,
      must not fool more than 0.2% of the images after the attacks by gradients (the tolerance is
      that of AutoAttack's authors).

    The others look at the first images of the data (their numbers and tolerances are our choice).
    Some of them follow the steps of an attack that advances (`tfadv.attacks.Attack.advances`), such
    as PGD. These attack 32 images, with some 120 steps:

    - `vanishing gradient`: an image looks robust, whether it is or not, if it has no gradient (or
      one that is not finite) at the attack's start or after 10 steps, before the attack has
      succeeded. More than 5% of such images raise a doubt.
    - `wrong gradient`: along the attack's step, the loss of the reported network must change as its
      gradient predicts (within 30%, for three quarters of the images where it changes enough).
      Otherwise another branch or network was attacked, or an operation has a wrong gradient. Not
      checked in bfloat16.
    - `other network`: the model, called now and without compiled graphs, must give the reported
      classes. It does not if it is random, or was changed after its graphs were compiled, for
      example by a switch of branches in Python. More than 5% of other classes raise a doubt.
    - `unbounded attack`: an attack that may change every pixel at will must succeed. More than 5%
      of failures raise a doubt.
    - `random noise`: noise of the attack's size, the worst of 10 draws, must not fool the network
      where 10 attack steps do not (McNemar's test).
    - `bounded outputs`: under all of these attacks, the outputs must not all lie in [0, 1], nor in
      [-1, 1] and come near its ends, as those of a sigmoid or tanh, which are no logits.

    Two more attack the first 256 images again, with the fewest steps that were evaluated, and
    compare the two attacks on the same images (McNemar's test):

    - `start`: started from the image itself, the attack must not be stronger.
    - `scale of the logits`: nor with the logits of each image scaled to a usual spread, if they
      have another one. Predictions do not depend on their scale, but attacks with cross entropy
      do: with large logits, 32 bits lose the gradient of the label, and with small ones the attack
      moves away from the mean of all classes instead of the nearest.

    For other attacks, such as AutoAttack, there are `other network` and `bounded outputs`, which
    here look at images and their negatives, and these checks, the first two as in AutoAttack's own
    implementation:

    - `random network`: a second pass must give the same logits (up to 1e-4 of the largest), on all
      but 5% of 32 images. `"rand"`, the version of AutoAttack for random networks, is not asked.
    - `zero gradient`: cross entropy must have a gradient at the image, on all but 5% of 32 images.
      The square attack, which needs none, is not asked.
    - `few classes`: an attack that aims at one class after the other must find as many wrong
      classes as it aims at by default, so that its number compares with others.
    - `PGD is fooled`: untargeted PGD, in the same ball, must not leave more images right than the
      evaluated attack (McNemar's test). PGD-20, with steps of a quarter of epsilon, attacks the
      first 256 images; `others` add what was evaluated before. A targeted PGD is not compared,
      since it must reach one class and so leaves more images right anyway.

    Args:
        evaluator: An `Evaluator`.
        results: The results that it returned last.
        data: The data that it was called with; None for the checks of the results only.
        batch_size, limit: The arguments that it was called with.
        others: Other evaluations of the same model on the same images, each a pair of its results
            and its `correct_images()`, as of `tfadv.evaluation.read_json`; all workers give the
            same. Those of PGD are compared with this one if it is of AutoAttack, and the other way
            round.

    Returns:
        A list of `Doubt`, the same on every worker; empty if there are none, or no attack.

    Example:

    ```python
    evaluator = tfadv.evaluation.Evaluator(model, attack)
    data = (test_images, test_labels)
    for doubt in tfadv.evaluation.doubts(evaluator, evaluator(data), data):
        print(doubt)
    ```
    """
    if evaluator.attack is None:
        return []
    kinds, checks = _PROBES[evaluator.attack.advances]
    counts = {}
    if data is not None:
        counts = _counts(evaluator, data, batch_size, limit, kinds)
    raised = []
    for domain in evaluator.domains:
        if domain in counts:
            messages = checks(evaluator, *counts[domain])
            raised += [Doubt(name, domain, text) for name, text in messages.items() if text]
        raised += _more_steps([result for result in results if result.domain == domain])
        raised += _no_gradient_needed([result for result in results if result.domain == domain])
    if evaluator.domains == ["clean"]:
        message = (
            "this branch alone was attacked and reported, but the model's predictions are the adv "
            "branch's, whose robustness this is not (evaluate the domain adv, or both)"
        )
        raised.append(Doubt("other branch", "clean", message))
    if data is not None:  # and so not after every epoch of a training
        raised += _few_classes(evaluator)
    others = list(others)
    if others:
        correct_images = evaluator.correct_images()
        for other, of_other in others:
            raised += _fooled_pgd(results, correct_images, other, of_other)
    return raised


def _counts(evaluator, data, batch_size, limit, kinds):
    """The counts of some kinds of probes for each domain, over all workers."""
    counts = []
    for kind in kinds:
        probes = [kind(evaluator, network) for network in evaluator.networks]
        totals = np.zeros([len(probes), len(kind.counts._fields)])
        source = evaluator.open(data, batch_size, min(limit or kind.images, kind.images))
        for batch in source.batches():
            if batch is not None:
                totals += [each(*batch) for each in probes]
        counts.append(totals)
    counts = np.concatenate(counts, axis=1)
    # Every worker reaches this collective operation, whatever its batches were.
    counts = distributed.total(counts.ravel()).round().astype(int).reshape(counts.shape).tolist()
    by_domain = {}
    for domain, row in zip(evaluator.domains, counts, strict=True):
        left = iter(row)
        by_domain[domain] = [
            kind.counts(*itertools.islice(left, len(kind.counts._fields))) for kind in kinds
        ]
    return by_domain


def _vanishing_gradient(count):
    if max(count.dead, count.stuck) > _TOLERATED * count.images:
        return (
            f"of {count.images} images, {count.dead} have no gradient at the attack's start and "
            f"{count.stuck} after {probe.STEPS} steps, short of its goal; what an attack by "
            "gradients cannot move may look robust (operations without a derivative, or saturated "
            "outputs: try the margin loss, or an attack without gradients)"
        )


def _wrong_gradient(count):
    enough = count.sloped >= count.images / 4
    if enough and count.foretold < 0.75 * count.sloped:
        return (
            f"along the attack's step the loss changes as the gradient foretells on "
            f"{count.foretold} of {count.sloped} images; another branch or network than the "
            "reported one was attacked, or an operation has a gradient not its own (attack what is "
            "reported; look for straight-through gradients and randomness)"
        )


def _other_network(count):
    if count.changed > _TOLERATED * count.images:
        return (
            f"the model itself gives {count.changed} of {count.images} images another class than "
            "was reported; it is random, or was changed after this evaluation was made (make a new "
            "evaluation; attack the average over its randomness)"
        )


def _unbounded_attack(count):
    if count.images - count.reached > _TOLERATED * count.images:
        return (
            f"free to change every pixel, the attack succeeds on {count.reached} of {count.images} "
            "images instead of all; its gradients may mislead it, also inside of epsilon (try the "
            "margin loss, restarts, an untargeted attack)"
        )


def _random_noise(count):
    if _chance(count.by_noise, count.by_noise + count.by_attack) < _SIGNIFICANCE:
        return (
            f"of {count.images} images, {count.by_noise} are misclassified under one of "
            f"{probe.DRAWS} draws of noise but not after {probe.STEPS} attack steps, and "
            f"{count.by_attack} the other way; the gradient leads away from what fools the network "
            "(try the margin loss, an untargeted attack, an attack without gradients)"
        )


def _bounded_outputs(count, also="under attacks without bounds too"):
    within = "0 and 1, as those of a sigmoid" if count.unit == count.images else None
    if count.signed == count.images and count.near_one:
        within = within or "-1 and 1, as those of a tanh"
    if count.images and within:
        return (
            f"all outputs for {count.images} images, {also}, lie between {within}; they are "
            "attacked as if they were logits, through a function that flattens their gradient "
            "(evaluate the model without its last activation)"
        )


_GRADIENT_CHECKS = {
    "vanishing gradient": _vanishing_gradient,
    "wrong gradient": _wrong_gradient,
    "other network": _other_network,
    "unbounded attack": _unbounded_attack,
    "random noise": _random_noise,
    "bounded outputs": _bounded_outputs,
}


def _check_gradients(evaluator, of_gradients, of_rivals):
    messages = {name: check(of_gradients) for name, check in _GRADIENT_CHECKS.items()}
    return messages | _rivals(of_rivals, evaluator.attacks[evaluator.num_steps[0]].name)


def _check_network(evaluator, of_network, of_pgd):
    attack = evaluator.attack
    messages = {
        "other network": _other_network(of_network),
        "bounded outputs": _bounded_outputs(of_network, "and for their negatives"),
        "PGD is fooled": _undercut(
            evaluator.attacks[evaluator.num_steps[-1]].name,
            f"untargeted PGD-{rivals.PGDRival.steps}",
            *of_pgd,
        ),
    }
    parts = attack.members or (attack,)
    if all(getattr(part, "gradient_samples", 1) == 1 for part in parts):
        messages["random network"] = _random_network(of_network)
    if not isinstance(attack, Square):
        messages["zero gradient"] = _zero_gradient(of_network)
    return messages


def _random_network(count):
    if count.varied > _TOLERATED * count.images:
        return (
            f"a second pass gives other logits for {count.varied} of {count.images} images; the "
            "network is random, so an attack on one draw of it may fail on the next (evaluate "
            "with the attack autoattack_rand)"
        )


def _zero_gradient(count):
    if count.flat > _TOLERATED * count.images:
        return (
            f"of {count.images} images, {count.flat} are classified correctly and have no gradient "
            "of the cross entropy; attacks that follow it leave them right, whether they are "
            "robust or not (believe attacks by other losses, or without gradients)"
        )


# Whether the attack advances -> the kinds of probes, and the checks of their counts.
_PROBES = {
    True: ((probe.GradientProbe, rivals.Rivals), _check_gradients),
    False: ((probe.NetworkProbe, rivals.PGDRival), _check_network),
}


def _few_classes(evaluator):
    attack = evaluator.attack
    targets = {
        part.label: getattr(part, "num_targets", None) for part in attack.members or (attack,)
    }
    for network in evaluator.networks[:1]:
        wrong = (network.num_classes or np.inf) - 1
        more = {label: number for label, number in targets.items() if (number or 0) > wrong}
        if more:
            parts = ", ".join(more)
            yield Doubt(
                "few classes",
                None,
                f"the model has {network.num_classes} classes, so {parts} can aim at {wrong} wrong "
                f"ones instead of {max(more.values())}; the number is as strong as it can be, but "
                "does not compare with those of data of more classes",
            )


def _fooled_pgd(results, correct_images, others, of_others):
    """Doubts about PGD in one of two evaluations, compared with AutoAttack in the other."""

    def attacked(results, rows, threat=None):
        for result, row in zip(results, () if rows is None else rows, strict=False):
            its_threat = result.domain, result.epsilon, result.norm
            if not result.is_clean and threat in (None, its_threat):
                yield its_threat, result, row

    evaluations = (results, correct_images), (others, of_others)
    for ours, theirs in (evaluations, evaluations[::-1]):
        for threat, strong, right in attacked(*ours):
            by_pgd = [
                (pgd, row)
                for _, pgd, row in attacked(*theirs, threat)
                if pgd.attack in (None, "PGD") and not pgd.targeted
            ]
            if strong.remaining is None or not by_pgd:  # no ensemble, or nothing to compare
                continue
            pgd, of_pgd = min(by_pgd, key=lambda pair: pair[0].accuracy)
            images = min(len(right), len(of_pgd))
            right, of_pgd = right[:images], of_pgd[:images]
            beats, loses = (right & ~of_pgd).sum(), (~right & of_pgd).sum()
            counts = images, right.sum(), of_pgd.sum(), beats, loses
            text = _undercut(strong.name, f"untargeted {pgd.name}", *counts)
            if text:
                yield Doubt("PGD is fooled", strong.domain, text)


def _undercut(name, pgd, images, right, pgd_right, beats, loses):
    """The message if an attack leaves fewer images right than PGD by more than chance."""
    if _chance(int(loses), int(beats + loses)) < _SIGNIFICANCE:
        return (
            f"{pgd} leaves {100 * pgd_right / images:.1f}% of {images} images right, and {name} "
            f"{100 * right / images:.1f}% (right under the one alone: {loses} and {beats} images); "
            "the gradient misleads PGD, so report the lower number"
        )


def _rivals(count, name):
    """For each rival attack, the name of the check -> a message if it beat the attack `name`."""

    def message(how, right, beats, loses, advice):
        if _chance(beats, beats + loses) < _SIGNIFICANCE:
            return (
                f"{how}, {name} leaves {100 * right / count.images:.1f}% of {count.images} images "
                f"right, and as it was evaluated {100 * count.right / count.images:.1f}% (right "
                f"under the one alone: {loses} and {beats} images); {advice}"
            )

    return {
        "start": message(
            "started from the image itself",
            count.image_right,
            count.image_beats,
            count.image_loses,
            "so few steps do not make good for a random start, and the lower number is the one to "
            "believe (evaluate with start_from_clean=1, or with more steps)",
        ),
        "scale of the logits": message(
            "on logits of a usual spread",
            count.scale_right,
            count.scale_beats,
            count.scale_loses,
            "the number depends on the scale of the logits, as no prediction does (evaluate with "
            "the margin loss)",
        ),
    }


def _more_steps(results):
    results = sorted(results, key=lambda result: (result.num_steps is None, result.num_steps))
    for fewer, more in itertools.pairwise(results):
        lost = fewer.correct - more.correct + more.regained
        if _chance(more.regained, more.regained + lost) < _SIGNIFICANCE:
            yield Doubt(
                "more steps",
                more.domain,
                f"{more.name} leaves {100 * more.accuracy:.1f}% right and {fewer.name} "
                f"{100 * fewer.accuracy:.1f}% (right under the one alone: {more.regained} and "
                f"{lost} images); the attack overshoots or its gradients mislead it (try a smaller "
                "step size, restarts, the margin loss, an untargeted attack)",
            )


def _no_gradient_needed(results):
    for result in results:
        counts = list((result.remaining or {}).items())
        fooled = sum(
            before - after
            for (_, before), (part, after) in itertools.pairwise(counts)
            if part == "Square"
        )
        if fooled > _TOLERATED_WITHOUT_GRADIENT * result.total:
            yield Doubt(
                "no gradient needed",
                result.domain,
                f"the square attack, which knows no gradient, fools {fooled} of {result.total} "
                "images that the attacks before it left right; gradients may mislead those, so "
                "that the true robustness is lower still (look for operations without a "
                "derivative, try more queries)",
            )


def _chance(heads, tosses):
    """Probability of at least so many heads: the p-value of McNemar's exact test, one-sided."""
    log_all = tosses * math.log(2) - math.lgamma(tosses + 1)
    return math.fsum(
        math.exp(-log_all - math.lgamma(k + 1) - math.lgamma(tosses - k + 1))
        for k in range(heads, tosses + 1)
    )
