"""How long a training takes: arithmetic, communication, and waiting for the slowest worker."""

import dataclasses
import math
import statistics

from tfadv.programs.costs import NetworkCost


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluations in training that are alike.

    Attributes:
        times: Number of evaluations in the whole training.
        images: Images of one worker in one evaluation, padding included.
        num_steps: Numbers of attack steps that are evaluated along one attack.
    """

    times: int
    images: int
    num_steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a training asks of each of its workers.

    Attributes:
        images: Clean images that one batch normalization sees: those of one accumulated step.
        clean_images: How many of them stay beside the adversarial ones; all without an attack.
        num_steps: Attack iterations; None without an attack.
        updates: Number of updates in the whole training.
        restarts: Attacks on each image.
        accumulation_steps: Number of accumulated steps of one update.
        attack_parts: How many of them are attacked in one call.
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
    attack_parts: int = 1
    rematerialize: str = "none"
    slots: int = 1
    compression: str = "none"
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def adversarial_images(self) -> int:
        """Adversarial images of one accumulated step."""
        return 0 if self.num_steps is None else self.images

    def attack_flops(self, cost: NetworkCost) -> int:
        """FLOPs of one worker's attack for one update."""
        if self.num_steps is None:
            return 0
        step = cost.image_gradient + cost.forward * (self.rematerialize == "all")
        return self.accumulation_steps * self.images * self._attack(cost, self.num_steps, step)

    def _attack(self, cost, num_steps, step):
        # With several restarts, each result is classified, to keep the strongest.
        return self.restarts * (num_steps * step + cost.forward * (self.restarts > 1))

    def update_flops(self, cost: NetworkCost) -> int:
        """FLOPs of one worker's forward and backward pass over all images of one update."""
        once = cost.update + cost.forward * (self.rematerialize != "none")
        return self.accumulation_steps * (self.adversarial_images + self.clean_images) * once

    def evaluation_flops(self, cost: NetworkCost) -> int:
        """FLOPs of all evaluations of one worker."""
        total = 0
        for each in self.evaluations:
            attack = self._attack(cost, max(each.num_steps, default=0), cost.image_gradient)
            classified = cost.forward * (1 + len(each.num_steps))
            total += each.times * each.images * (classified + attack)
        return total

    def reduced_bytes(self, cost: NetworkCost) -> float:
        """Bytes that the workers average in one update."""
        gradients = 4 * cost.parameters
        return cost.reduced_bytes - gradients * (self.compression == "fp16") / 2

    def memory(self, cost: NetworkCost, workers: int) -> int:
        """Estimates the bytes of one device: parameters, the optimizer's slots, activations.

        TensorFlow's kernels and its allocator need more, which is not counted.
        """
        arrays = 2 + self.slots + (self.accumulation_steps > 1)
        attack, update = cost.attack_bytes, cost.update_bytes
        if self.rematerialize == "all":
            attack = cost.rematerialized_attack_bytes
        if self.rematerialize != "none":
            update = cost.rematerialized_update_bytes
        images = self.adversarial_images
        activations = max(
            attack * images * self.attack_parts, update * (images + self.clean_images)
        )
        return 4 * cost.parameters * arrays + cost.reduced_bytes * (workers > 1) + activations


@dataclasses.dataclass(frozen=True)
class Prediction:
    """How long a training takes.

    Attributes:
        attack, update, communication, waiting: Seconds of one update: for the attack, the forward
            and backward pass, the all-reduce, and waiting for the slowest worker.
        updates: Number of updates.
        evaluations: Seconds of all evaluations together.
        images: Clean images of one update, of all workers.
        workers: Number of devices.
    """

    attack: float
    update: float
    communication: float
    waiting: float
    updates: int
    evaluations: float
    images: int
    workers: int

    @property
    def seconds_per_update(self) -> float:
        return self.attack + self.update + self.communication + self.waiting

    @property
    def images_per_second(self) -> float:
        """Clean images of all workers per second of training."""
        return self.images / self.seconds_per_update

    @property
    def hours(self) -> float:
        """Hours of the whole training."""
        return (self.updates * self.seconds_per_update + self.evaluations) / 3600

    @property
    def device_hours(self) -> float:
        return self.hours * self.workers


def predict(
    work: Work,
    cost: NetworkCost,
    *,
    workers: int,
    attack_rate: float,
    update_rate: float,
    evaluation_rate: float | None = None,
    bandwidth: float = math.inf,
    latency: float = 0.0,
    jitter: float = 0.0,
    copying: float | None = None,
) -> Prediction:
    """Predicts how long a training takes.

    With N workers, an update takes `attack + pass + communication + waiting`, where

        communication = all_reduce_seconds(N, bytes, bandwidth, latency), and
        waiting = jitter * E[maximum of N normals] * (attack + pass).

    It assumes that input pipelines keep up, and that no communication overlaps with arithmetic:
    all of it comes after the last gradient, in one operation. With `copying`, communication is
    `gloo_seconds(N, bytes, bandwidth, latency, copying)`.

    Args:
        work: The `Work` of each worker.
        cost: The `NetworkCost` of the network.
        workers: Number of workers, N.
        attack_rate, update_rate: FLOP/s that a device reaches in the attack and in the forward and
            backward pass of an update.
        evaluation_rate: FLOP/s in evaluations; None for `attack_rate`.
        bandwidth: Bytes per second of the slowest connection of the ring.
        latency: Seconds of one step of the ring.
        jitter: Standard deviation of the time that a worker computes for an update, over its mean.
            Workers are assumed to be independent of each other and of the past.
        copying: Bytes per second that a worker's cores copy and add, as of `gloo_seconds`; None for
            workers that do not communicate through Gloo.

    Returns:
        A `Prediction`.
    """
    attack = work.attack_flops(cost) / attack_rate
    update = work.update_flops(cost) / update_rate
    size = work.reduced_bytes(cost)
    if copying is None:
        communication = all_reduce_seconds(workers, size, bandwidth, latency)
    else:
        communication = gloo_seconds(workers, size, bandwidth, latency, copying)
    return Prediction(
        attack,
        update,
        communication=communication,
        waiting=jitter * expected_maximum(workers) * (attack + update),
        updates=work.updates,
        evaluations=work.evaluation_flops(cost) / (evaluation_rate or attack_rate),
        images=work.images * work.accumulation_steps * workers,
        workers=workers,
    )


def all_reduce_seconds(workers: int, size: float, bandwidth: float, latency: float) -> float:
    """Returns the seconds of a ring all-reduce of N workers.

        seconds = 2 (N - 1) (latency + size / (N bandwidth))

    Args:
        workers: Number of workers, N.
        size: Number of bytes.
        bandwidth: Bytes per second of the slowest connection of the ring.
        latency: Seconds of one step of the ring.
    """
    return 2 * (workers - 1) * (latency + size / (workers * bandwidth))


def gloo_seconds(
    workers: int, size: float, bandwidth: float, message: float, copying: float = math.inf
) -> float:
    """Returns the seconds of an all-reduce of N workers by Horovod through Gloo.

    Gloo sends each worker's share of the bytes around the ring in S segments, at least two and of a
    mebibyte at most. Two are on their way at a time, each only after the receiver has asked for it:

        ring = 2 (N - 1) S max(segment / bandwidth, message + segment / (2 bandwidth))

    Before, the workers agree on what is ready, by a sum around the ring of one small message.
    Horovod's copies of the bytes and the sums take time beside it; the kernel's copies do not, as
    the network sends meanwhile:

        seconds = 2 (N - 1) message + ring + size / copying

    Args:
        workers: Number of workers, N.
        size: Number of bytes.
        bandwidth: Bytes per second of the slowest connection of the ring.
        message: Seconds until a small message has arrived.
        copying: Bytes per second that the cores of one worker copy and add.

    Returns:
        Seconds; 0 for one worker.
    """
    if workers == 1:
        return 0.0
    segments = max(2, math.ceil(size / (workers * 2**20)))
    seconds = size / (workers * segments) / bandwidth
    ring = 2 * (workers - 1) * segments * max(seconds, message + seconds / 2)
    return 2 * (workers - 1) * message + ring + size / copying


def expected_maximum(count: int, limit: float = 8.0, points: int = 4001) -> float:
    """Returns the mean of the largest of `count` independent standard normal variables.

    It is the integral of `F - F^count` over [-limit, limit], where F is the normal distribution
    function: the mean of any variable is the integral of (1 - its distribution) over the positive
    numbers less that of its distribution over the negative ones, and the mean of a single one is 0.
    """
    cdf = statistics.NormalDist().cdf
    step = 2 * limit / (points - 1)
    values = (cdf(-limit + i * step) for i in range(points))
    return math.fsum(step * (value - value**count) for value in values)
