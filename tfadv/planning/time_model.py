"""How long a training takes: arithmetic, communication, and waiting for the slowest."""

import dataclasses
import math
import statistics

_SUPPORT = 8.0  # standard deviations beyond which a normal distribution has no mass to speak of
_POINTS = 4001


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluations in training that are alike.

    Attributes:
        times: How often in the whole training.
        images: Images of one worker in one evaluation, its padding among them.
        num_steps: Tuple of integers, the numbers of attack steps that are read off one trajectory.
    """

    times: int
    images: int
    num_steps: tuple


@dataclasses.dataclass(frozen=True)
class Work:
    """What a training asks of each of its workers.

    Attributes:
        images: Clean images of one part of a batch: what one batch normalization sees.
        clean_images: Those that stay beside the adversarial ones; all of them without an attack.
        num_steps: Attack iterations; None without an attack.
        restarts: Attacks per image.
        accumulation_steps: Parts of a batch that share one update.
        updates: In the whole training.
        rematerialize: `"none"`, `"step"` or `"all"`, as of `AdversarialTraining`.
        slots: How many numbers the optimizer keeps for each parameter.
        compression: `"none"` or `"fp16"`, of the gradients between workers.
        evaluations: Tuple of `Evaluation`.
    """

    images: int
    clean_images: int
    num_steps: int | None
    updates: int
    restarts: int = 1
    accumulation_steps: int = 1
    rematerialize: str = "none"
    slots: int = 1
    compression: str = "none"
    evaluations: tuple = ()

    @property
    def attacked(self):
        """Adversarial images of one part of a batch."""
        return 0 if self.num_steps is None else self.images

    def attack_flops(self, cost):
        """FLOPs of the attack for one update of one worker."""
        if not self.attacked:
            return 0
        step = cost.image_gradient + cost.forward * (self.rematerialize == "all")
        return self.accumulation_steps * self.images * _attack(cost, self, self.num_steps, step)

    def update_flops(self, cost):
        """FLOPs of the forward and backward pass over all images of one update of one worker."""
        once = cost.update + cost.forward * (self.rematerialize != "none")
        return self.accumulation_steps * (self.attacked + self.clean_images) * once

    def evaluation_flops(self, cost):
        """FLOPs of all evaluations of one worker."""
        return sum(
            e.times
            * e.images
            * (
                cost.forward * (1 + len(e.num_steps))
                + _attack(cost, self, max(e.num_steps, default=0), cost.image_gradient)
            )
            for e in self.evaluations
        )

    def reduced_bytes(self, cost):
        """What one update sends through the workers' all-reduce."""
        gradients = 4 * cost.parameters
        return cost.reduced_bytes - gradients * (self.compression == "fp16") / 2

    def memory(self, cost, workers):
        """Bytes of one device: parameters, what the optimizer keeps of them, activations.

        An estimate: what TensorFlow's kernels and its allocator need besides is not in it.
        """
        arrays = 2 + self.slots + (self.accumulation_steps > 1)
        attack, update = cost.attack_bytes, cost.update_bytes
        if self.rematerialize == "all":
            attack = cost.rematerialized_attack_bytes
        if self.rematerialize != "none":
            update = cost.rematerialized_update_bytes
        activations = max(attack * self.attacked, update * (self.attacked + self.clean_images))
        return 4 * cost.parameters * arrays + cost.reduced_bytes * (workers > 1) + activations


def _attack(cost, work, num_steps, step):
    # Of several restarts each is classified, to keep the strongest.
    return work.restarts * (num_steps * step + cost.forward * (work.restarts > 1))


@dataclasses.dataclass(frozen=True)
class Link:
    """How the workers' all-reduce gets on.

    Attributes:
        bandwidth: Bytes per second of the slowest connection of the ring.
        latency: Seconds of one of its steps.
    """

    bandwidth: float
    latency: float

    def seconds(self, size, workers):
        """Of a ring all-reduce: `2 (N - 1) (latency + size / (N bandwidth))`.

        Args:
            size: Bytes.
            workers: N.
        """
        return 2 * (workers - 1) * (self.latency + size / (workers * self.bandwidth))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a training takes.

    Attributes:
        attack, update, communication, waiting: Seconds of one update: of the attack, of the
            forward and backward pass, of the all-reduce, and of waiting for the slowest worker.
        updates: How many.
        evaluations: Seconds of all evaluations together.
        images_per_second: Clean images of all workers, while it trains.
        workers: How many devices.
    """

    attack: float
    update: float
    communication: float
    waiting: float
    updates: int
    evaluations: float
    images_per_second: float
    workers: int

    @property
    def seconds_per_update(self):
        return self.attack + self.update + self.communication + self.waiting

    @property
    def hours(self):
        """Of the whole training."""
        return (self.updates * self.seconds_per_update + self.evaluations) / 3600

    @property
    def device_hours(self):
        return self.hours * self.workers


def predict(
    work,
    cost,
    *,
    attack_rate,
    update_rate,
    link,
    workers,
    jitter=0.0,
    evaluation_rate=None,
):
    """Predicts how long a training takes.

    `update = attack + pass + ring all-reduce + jitter * E[max of N normals] * (attack + pass)`

    Input pipelines are taken to keep up, and no communication to hide behind arithmetic: all of it
    comes after the last gradient, in one operation.

    Args:
        work: A `Work`.
        cost: The `NetworkCost` of the network.
        attack_rate, update_rate: FLOP/s that a device reaches in the attack and in the update's
            pass.
        link: A `Link`.
        workers: Integer.
        jitter: Standard deviation of the time that one worker computes for an update, over its
            mean; workers are taken to be independent of each other and of the past.
        evaluation_rate: FLOP/s in evaluations; None for `attack_rate`.

    Returns:
        A `Prediction`.
    """
    attack = work.attack_flops(cost) / attack_rate
    update = work.update_flops(cost) / update_rate
    communication = link.seconds(work.reduced_bytes(cost), workers)
    waiting = jitter * expected_maximum(workers) * (attack + update)
    images = work.images * work.accumulation_steps * workers
    return Prediction(
        attack,
        update,
        communication,
        waiting,
        work.updates,
        work.evaluation_flops(cost) / (evaluation_rate or attack_rate),
        images / (attack + update + communication + waiting),
        workers,
    )


def expected_maximum(count):
    """The mean of the largest of `count` independent standard normal variables.

    `E = integral of (F - F^n)`, where F is the normal distribution function; 0 for one.
    """
    normal = statistics.NormalDist()
    step = 2 * _SUPPORT / (_POINTS - 1)
    points = (-_SUPPORT + i * step for i in range(_POINTS))
    # By parts: the mean of any variable is the integral of (1 - its distribution) on the right of 0
    # less that of the distribution on the left, and that of a single one is 0.
    return math.fsum(step * (normal.cdf(x) - normal.cdf(x) ** count) for x in points)
