import tensorflow as tf

from tfadv import distributed


class TrainingError(RuntimeError):
    """What no training can go on from: weights that differ between workers, or are not finite."""


class Faults:
    """The updates that were left out because a loss or a gradient was not finite.

    Every worker says with its gradients whether they are finite, so all of them leave out the same
    updates: nothing that is not finite reaches a variable.
    """

    def __init__(self):
        with tf.device("CPU:0"):
            self._updates = tf.Variable(0, trainable=False)
            self._workers = tf.Variable(tf.zeros([distributed.size()]), trainable=False)

    def flags(self, tensors):
        """What a worker sends: a float for each worker, its own 1 if a tensor is not finite."""
        finite = [tf.reduce_all(tf.math.is_finite(t)) for t in tensors if t.dtype.is_floating]
        found = 1.0 - tf.cast(tf.reduce_all(tf.stack(finite)), tf.float32)
        return found * tf.one_hot(distributed.rank(), distributed.size())

    def note(self, left_out, flags):
        """Takes what all workers sent, as a mean over them, and whether the update is left out."""
        self._updates.assign_add(tf.cast(left_out, tf.int32))
        self._workers.assign(flags)

    @property
    def updates(self):
        """How many updates were left out."""
        return int(self._updates.numpy())

    @property
    def workers(self):
        """Ranks of those whose loss or gradients were not finite in the last update."""
        return [rank for rank, flag in enumerate(self._workers.numpy()) if flag]
