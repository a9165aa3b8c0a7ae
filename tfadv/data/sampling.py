"""Which example comes when: orders and random keys that depend on the seed and the epoch alone.

Nothing here keeps a state, so a resumed run sees what an uninterrupted one would have seen.
"""

import numpy as np
import tensorflow as tf

from tfadv.steps import validation_steps

# Purposes of keys: the same (seed, epoch) must not give related draws for different purposes.
ORDER = 1
AUGMENTATION = 2
FILES = 3
BUFFER = 4


def key(seed, epoch, purpose, *details):
    """A key for TensorFlow's stateless random functions.

    Args:
        seed: Python integer, the run's.
        epoch: Integer or scalar tensor.
        purpose: One of this module's constants.
        *details: Further integers or scalar tensors that tell draws apart (a position, a rank).

    Returns:
        An int64 tensor of shape [2].
    """
    result = tf.stack([tf.constant(seed % 2**63, tf.int64), tf.cast(epoch, tf.int64)])
    for detail in (purpose, *details):
        result = tf.random.fold_in(result, tf.cast(detail, tf.int64), alg="philox")
    return result


def numbered(key, number):
    """Another key of a sequence, cheaply: `numbered(key(..., 0), n)` equals `key(..., n)`."""
    return tf.stack([key[0], number])


def fixed_permutation(num_examples):
    """An order of all examples that never changes: a NumPy int64 array [num_examples]."""
    # NumPy promises not to change the raw bits; it promises that of no permutation.
    bits = np.random.Philox(key=0).random_raw(num_examples)
    return np.argsort(bits, kind="stable").astype(np.int64)


def validation_indices(num_examples, batch_size, rank, size):
    """The examples of one worker's evaluation: every `size`-th, padded with -1.

    Args:
        num_examples: Number of examples, over all workers.
        batch_size: Images per worker.
        rank: This worker.
        size: Number of workers.

    Returns:
        A NumPy int64 array [batches, batch_size]; `batches` is the same for every rank.
    """
    batches = validation_steps(num_examples, batch_size, size)
    indices = np.full(batches * batch_size, -1, np.int64)
    mine = np.arange(rank, num_examples, size)
    indices[: len(mine)] = mine
    return indices.reshape(batches, batch_size)
