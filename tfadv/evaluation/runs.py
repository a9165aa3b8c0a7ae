"""The runs that the images of an evaluation go through, in full batches while images drop out."""

import collections
import dataclasses
import time
from typing import Any

import numpy as np

from tfadv.attacks import Attack
from tfadv.evaluation.sources import padded


@dataclasses.dataclass(frozen=True)
class Run:
    """One thing that is done to images: they are classified as they are, or attacked once.

    Args:
        domain: Position of the branch.
        network: Its `Network`.
        rows: For each outcome of the run, the rows of outcomes that it counts in.
        attack: The attack; None to classify the images as they are.
        steps: Step size and numbers of steps, of an attack that advances; else None.
        number: Number of the restart, or of the attack's run.
        part: Position of the attack among those of an ensemble.
    """

    domain: int
    network: Any
    rows: list[list[int]]
    attack: Attack | None
    steps: tuple[float | None, list[int]] | None
    number: int
    part: int = 0

    @property
    def passes(self):
        """About how many passes forward it costs."""
        if self.attack is None:
            return 1
        return self.attack._passes() if self.steps is None else 3 * max(self.steps[1])

    def matters(self, outcomes):
        """Whether it may change outcomes `[domains, rows, 3]` of an image."""
        if self.attack is None:
            return True
        correct, hit, _ = outcomes[self.domain, sum(self.rows, [])].T
        return bool(np.any(correct | ~hit))


class Queues:
    """Images that wait for a run, one queue for each run.

    An image leaves a run for the next one that may change its outcomes. Where there are enough for
    a batch, they are attacked together, so batches stay full while images drop out.

    Args:
        evaluator: An `Evaluator`.
        batch_size: Images of every batch.
        shape: Shape of an image's outcomes.
        finished: Dictionary to which the outcomes of finished images are added, by index.
        journal: A `Journal`, or None.

    Attributes:
        known: Number of images of the batches so far that need nothing.
        costs: Dictionary, positions of a branch and of a part of its attack -> array of the images
            that the part attacked, their passes (as of `Run.passes`) and the seconds that it took.
    """

    def __init__(self, evaluator, batch_size, shape, finished, journal):
        self._evaluator = evaluator
        self._batch_size = batch_size
        self._shape = shape
        self._finished = finished
        self._journal = journal
        self._runs = None
        self._queues = []
        self.known = 0
        self._passes = 0  # that the images went through
        self._entered = self._stayed = None  # by run: images that it took, and that went on
        # (domain, part of an ensemble) -> what was attacked: images, passes, seconds.
        self.costs = collections.defaultdict(lambda: np.zeros(3))

    def put(self, image, label, index, outcomes=None, run=0):
        """Adds an image, with what is known of it and the number of its next run."""
        if self._runs is None:
            self._runs = self._evaluator.runs(np.stack([image] * self._batch_size))
            self._queues = [[] for _ in self._runs]
            self._entered, self._stayed = np.zeros([2, len(self._runs)], int)
        if outcomes is None:
            outcomes = np.zeros(self._shape, bool)
        self._queues[run].append((image, label, index, outcomes))

    def share_done(self, unread):
        """The share of the passes that is done, if as many images drop out as so far.

        Args:
            unread: Number of batches that are still to be read.
        """
        if self._runs is None:
            return self.known / (self.known + unread * self._batch_size)
        # What an image costs from each run on: nothing is known of runs that took none.
        stays = (self._stayed + 1) / (self._entered + 1)
        costs = [0.0]
        for run, share in zip(reversed(self._runs), reversed(stays), strict=True):
            costs.append(run.passes + share * costs[-1])
        costs.reverse()
        waiting = sum(len(queue) * cost for queue, cost in zip(self._queues, costs, strict=False))
        done = self._passes + self.known * costs[0]
        return done / (done + waiting + unread * self._batch_size * costs[0])

    def attack(self, full_only=False):
        """Takes a batch through its run; returns whether there was one.

        Args:
            full_only: Whether to wait for full batches.
        """
        numbers = [number for number, queue in enumerate(self._queues) if queue]
        full = [number for number in numbers if len(self._queues[number]) >= self._batch_size]
        if full:
            number = full[-1]  # the last one, so that no queue grows beyond two batches
        elif full_only or not numbers:
            return False
        else:
            number = numbers[0]  # the first one, so that the others may fill up
        queue = self._queues[number]
        batch, self._queues[number] = queue[: self._batch_size], queue[self._batch_size :]
        images, labels, indices, so_far = (np.stack(each) for each in zip(*batch, strict=True))
        count, run = len(batch), self._runs[number]
        images, labels, indices = padded(images, labels, indices, self._batch_size)
        so_far = np.pad(so_far, [(0, len(indices) - count)] + [(0, 0)] * 3)
        begun = time.monotonic()
        outcomes = self._evaluator.outcomes(run, images, labels, indices, so_far)
        cost = ()
        if run.attack is not None:
            attacked = count if run.number == 0 else 0  # each image once, not in each run
            counts = attacked, count * run.passes, round(time.monotonic() - begun, 4)
            self.costs[run.domain, run.part] += counts
            cost = run.domain, run.part, *counts
        self._passes += count * run.passes
        self._entered[number] += count
        finished, unfinished = [], []
        for (image, label, index, _), image_outcomes in zip(batch, outcomes[:count], strict=True):
            later = (
                later
                for later in range(number + 1, len(self._runs))
                if self._runs[later].matters(image_outcomes)
            )
            following = next(later, None)
            if following is None:
                correct = image_outcomes[..., 0]
                image_outcomes[:, 1:, 2] = correct[:, 1:] & ~correct[:, :-1]
                self._finished[index] = image_outcomes
                finished.append((index, image_outcomes))
            else:
                self._stayed[number] += 1
                self._queues[following].append((image, label, index, image_outcomes))
                unfinished.append((index, image_outcomes, following))
        if self._journal is not None and finished:
            kept = cost if not unfinished else ()
            self._journal.add(*zip(*finished, strict=True), cost=kept)
        # Not after a mere classification, which is soon done again.
        if self._journal is not None and unfinished and run.attack is not None:
            self._journal.add(*zip(*unfinished, strict=True), cost=cost)
        return True
