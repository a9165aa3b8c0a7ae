"""What a training step measures: means over an epoch, and values that call for a warning."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfadv.attacks import checks
from tfadv.training.batches import Mixture


class Meters:
    """Losses, accuracies and attack success by domain, as means over the images of an epoch.

    Their sums are one small vector, which costs the workers' all-reduce nothing. They are not
    metrics of the model, because they must not leak into its evaluation.

    Args:
        domains: The domains that are trained, `"adv"`, `"clean"` or both.
        targeted: Whether the attack is targeted; it decides what counts as success.

    Attributes:
        sums: A variable `[means, 2]`, the sum and the weight of every mean.
    """

    def __init__(self, domains: Sequence[str], targeted: bool = True) -> None:
        self.domains = tuple(domains)
        self.targeted = targeted
        self.names = ["loss"]
        for domain in domains:
            self.names += [f"{domain}_loss", f"{domain}_accuracy"]
        if "adv" in domains:
            self.names.append("attack_success")
        self.sums = tf.Variable(tf.zeros([len(self.names), 2]), trainable=False)

    def measure(
        self,
        batch: Mixture,
        outputs: tf.Tensor,
        loss: tf.Tensor,
        losses: dict[str, tf.Tensor],
        goals: tf.Tensor | None,
    ) -> tf.Tensor:
        """What one mini-batch adds to `sums`.

        Args:
            batch: The mini-batch.
            outputs: Tensor `[batch, classes]`, or a structure that holds it.
            loss: Scalar, the loss of the whole mini-batch.
            losses: The losses by domain.
            goals: Integers, the targets of a targeted attack.

        Returns:
            A float32 tensor of the shape of `sums`.
        """
        predicted = tf.argmax(tf.nest.flatten(outputs)[0], axis=-1, output_type=tf.int64)
        labels = sparse(tf.nest.flatten(batch.labels)[0])
        rows = [_row(loss, batch.num_adversarial + batch.num_clean)]
        for domain in self.domains:
            hits = batch.part(predicted == labels, domain)
            rows += [_row(losses[domain], tf.size(hits)), _share(hits)]
        if "adv" in self.domains:
            attacked = batch.part(predicted, "adv")
            if self.targeted:
                rows.append(_share(attacked == tf.cast(goals, tf.int64)))
            else:
                rows.append(_share(attacked != batch.part(labels, "adv")))
        return tf.convert_to_tensor(rows)

    def add(self, measured: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds what `measure` returned, summed up or averaged, and returns the means so far."""
        self.sums.assign_add(measured)
        return self.results()

    def results(self) -> dict[str, tf.Tensor]:
        """The means so far, by name."""
        means = tf.math.divide_no_nan(self.sums[:, 0], self.sums[:, 1])
        return dict(zip(self.names, tf.unstack(means), strict=True))

    def reset(self) -> None:
        """Starts a new epoch."""
        self.sums.assign(tf.zeros_like(self.sums))


def sparse(labels: tf.Tensor) -> tf.Tensor:
    """Class numbers, int64 `[batch]`, of sparse or one-hot labels."""
    if labels.shape.rank == 2 and labels.shape[-1] != 1:
        return tf.argmax(labels, axis=-1, output_type=tf.int64)
    return tf.cast(tf.reshape(labels, [-1]), tf.int64)


def _row(mean, count):
    count = tf.cast(count, tf.float32)
    return [tf.cast(mean, tf.float32) * count, count]


def _share(hits):
    return _row(tf.reduce_mean(tf.cast(hits, tf.float32)), tf.size(hits))


class Communication:
    """The share of the training time that the workers spend in their all-reduce.

    `share = (from own gradients to their mean) / (from one mean to the next)`

    of this epoch so far, over all workers. Waiting for slower workers is part of it, as is the
    negotiation before anything is sent; alone, the share of the fastest worker would be larger and
    that of the slowest smaller. Evaluations between epochs do not count.

    A worker sends what it measured of an update with the next one, in the same all-reduce. So an
    epoch's share is that of its updates except the last, and of the one before them.
    """

    def __init__(self) -> None:
        # This worker's last update, in seconds: in the all-reduce, and altogether.
        self._measured = tf.Variable(tf.zeros([2]), trainable=False)
        self._sums = tf.Variable(tf.zeros([2]), trainable=False)
        self._last = tf.Variable(tf.zeros([], tf.float64), trainable=False)
        with tf.device("CPU:0"):  # to be read while a GPU waits for other workers
            self._waits = tf.Variable(False, trainable=False)
        self._began: tf.Tensor | None = None

    def waits(self) -> bool:
        """Whether this worker is in the all-reduce now, as another thread sees it."""
        return bool(self._waits.numpy())

    @property
    def measured(self) -> tf.Tensor:
        """What this worker measured of its last update, to be sent with the next one."""
        return self._measured.value()

    def begin(self, images: tf.Tensor) -> None:
        """Takes the time when a batch is there; inside the step's graph."""
        self._began = _now([images])

    def around(
        self, sent: list[tf.Tensor], reduce: Callable[[], list[tf.Tensor]]
    ) -> list[tf.Tensor]:
        """Measures the all-reduce.

        Args:
            sent: The tensors; the last one is small.
            reduce: Function that returns their means.

        Returns:
            The means.
        """
        start = _now(sent)
        with tf.control_dependencies([start]):
            self._waits.assign(True)
        means = reduce()
        end = _now(means)
        with tf.control_dependencies([end]):
            self._waits.assign(False)
        # From the last mean, to include the wait for data; the first update has none.
        began = tf.where(self._last > 0, self._last, self._began)
        self._measured.assign(tf.cast([end - start, end - began], tf.float32))
        self._last.assign(end)
        return means

    def add(self, measured: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the mean of what all workers measured, and returns the share so far by name."""
        self._sums.assign_add(measured)
        return self.results()

    def results(self) -> dict[str, tf.Tensor]:
        """The share so far, by name."""
        return {"communication_share": tf.math.divide_no_nan(self._sums[0], self._sums[1])}

    def reset(self) -> None:
        """Starts a new epoch."""
        self._sums.assign(tf.zeros_like(self._sums))
        self._last.assign(0.0)


def _now(tensors):
    """The time in seconds when all of some tensors have been computed."""
    with tf.control_dependencies(tensors):
        last = tf.identity(tensors[-1])
    with tf.device("CPU:0"):
        # A GPU gets its work ahead of time; only what is copied from it is computed.
        copied = tf.identity(last)
        with tf.control_dependencies([copied]):
            # Not tf.timestamp, which refuses to run beside deterministic kernels.
            return tf.ensure_shape(tf.numpy_function(_time, [], tf.float64), [])


def _time():
    return np.float64(time.time())  # outside of a graph a Python float becomes a float32


class Extremes:
    """The smallest and largest values of images and outputs, which may give a mistake away.

    A check inside a graph can raise but not warn. So the step notes these values, and the callback
    looks at them after the batch.

    Args:
        value_range: `(low, high)` of the images; None without an attack.
        logits: Whether the model's outputs are attacked as they are.
    """

    def __init__(self, value_range: tuple[float, float] | None, logits: bool) -> None:
        self.value_range = value_range
        self.logits = logits
        # Rows for images and outputs: smallest and largest value.
        self._seen = tf.Variable([[float("inf"), -float("inf")]] * 2, trainable=False)
        self._few = tf.Variable(True, trainable=False)
        self._warned = False

    def add(self, images: tf.Tensor, outputs: tf.Tensor) -> None:
        """Takes in the images of a mini-batch and the model's outputs for it."""
        both = [tf.cast(values, tf.float32) for values in (images, outputs)]
        new = tf.stack([[tf.reduce_min(values), tf.reduce_max(values)] for values in both])
        low = tf.minimum(self._seen[:, 0], new[:, 0])
        high = tf.maximum(self._seen[:, 1], new[:, 1])
        self._seen.assign(tf.stack([low, high], axis=1))
        self._few.assign(tf.size(outputs) < checks.MANY)

    def warn(self) -> None:
        """Warns once of images scaled to another range, and of outputs that are not logits."""
        if self._warned or self.value_range is None:
            return
        (lowest, highest), (least, greatest) = self._seen.numpy().tolist()
        self._warned = highest > lowest  # not after black images alone
        checks.warn_of_range(lowest, highest, self.value_range)
        if self.logits and not self._few.numpy() and 0 <= least < greatest <= 1:
            checks.warn_of_bounded()
