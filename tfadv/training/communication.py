import time

import numpy as np
import tensorflow as tf


class Communication:
    """Measures the share of the training's time that goes into the workers' all-reduce.

    `share = (from own gradients to their mean) / (from one mean to the next)`

    of this epoch so far, over all workers. So waiting for slower workers is part of it, as is the
    negotiation before anything is sent; and the share of the fastest worker, alone, would be
    larger, that of the slowest smaller. Evaluations between epochs do not count.

    What a worker measured of an update is sent with the next one, in the same collective operation:
    an epoch's share is that of its updates but for the last, and of the one before them.
    """

    def __init__(self):
        # Of this worker's last update, seconds: in the all-reduce, and altogether.
        self._measured = tf.Variable(tf.zeros([2]), trainable=False)
        self._sums = tf.Variable(tf.zeros([2]), trainable=False)
        self._last = tf.Variable(tf.zeros([], tf.float64), trainable=False)
        with tf.device("CPU:0"):  # to be read while a GPU waits for other workers
            self._waits = tf.Variable(False, trainable=False)
        self._began = None

    def waits(self):
        """Whether this worker is in the all-reduce now, as another thread sees it."""
        return bool(self._waits.numpy())

    @property
    def measured(self):
        """What this worker measured of its last update: what the step sends."""
        return self._measured.value()

    def begin(self, images):
        """Takes the time at which a batch is there; inside of the step's graph."""
        self._began = _now([images])

    def around(self, sent, reduce):
        """Measures the all-reduce.

        Args:
            sent: List of tensors, of which the last is small.
            reduce: Function without arguments that returns the list of their means.

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
        # From the last mean, so that waiting for data is in it too; the first update has none.
        began = tf.where(self._last > 0, self._last, self._began)
        self._measured.assign(tf.cast([end - start, end - began], tf.float32))
        self._last.assign(end)
        return means

    def add(self, measured):
        """Adds what all workers measured, a mean over them, and returns the share, by name."""
        self._sums.assign_add(measured)
        return self.results()

    def results(self):
        """The share so far, by name."""
        return {"communication_share": tf.math.divide_no_nan(self._sums[0], self._sums[1])}

    def reset(self):
        """Starts a new epoch."""
        self._sums.assign(tf.zeros_like(self._sums))
        self._last.assign(0.0)


def _now(tensors):
    """The time when all of some tensors have been computed, in seconds."""
    with tf.control_dependencies(tensors):
        last = tf.identity(tensors[-1])
    with tf.device("CPU:0"):
        # A GPU is given its work ahead of time: only what is copied from it is computed.
        copied = tf.identity(last)
        with tf.control_dependencies([copied]):
            # Not tf.timestamp, which refuses to run beside deterministic kernels.
            return tf.ensure_shape(tf.numpy_function(_time, [], tf.float64), [])


def _time():
    return np.float64(time.time())  # outside of a graph a Python float becomes a float32
