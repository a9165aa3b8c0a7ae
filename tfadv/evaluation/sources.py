"""Whatever data a caller has, as one worker's batches of one shape."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tfadv.models import structures
from tfadv.steps import validation_steps


@dataclasses.dataclass(frozen=True)
class Source:
    """One worker's share of the images, by example: those whose index is the rank modulo the size.

    Where a worker holds a share of its own, an image's index is that which it would have if all
    workers dealt out one set in turn: `tf.data.Dataset.shard(size, rank)` and `images[rank::size]`
    keep the indices, and with them an image's random draws.

    Args:
        image_shape: Of one image, a `tf.TensorShape`, possibly with unknown dimensions.
        num_classes: How many classes there are, or None where the data do not say.
        num_batches: Of each worker, or None where that is known only at the end.
        chunks: (images, labels, indices) of at most a batch, from which `batches` are made.
        batch_size: Images of every batch.
        division: String that identifies which worker holds which images; None if each holds all.
    """

    image_shape: tf.TensorShape
    num_classes: int | None
    num_batches: int | None
    chunks: Iterable
    batch_size: int
    division: str | None = None

    def batches(self, known=()):
        """Yields (images, labels int32 [batch_size], indices int64 [batch_size]) as NumPy arrays.

        All images have the batch's size, so that one graph serves them and gives the same bits
        wherever an image falls. Index -1 marks padding, which repeats an image of the batch: zeros
        could lie outside of the images' range, or make a model that standardizes images divide by
        zero. A batch of padding alone is None.

        Args:
            known: Indices of images that are left out.
        """
        for images, labels, indices in self.chunks:
            indices = np.asarray(indices)
            wanted = [index >= 0 and index not in known for index in indices.tolist()]
            real = np.flatnonzero(wanted)
            if not len(real):
                yield None
                continue
            rows = np.concatenate([real, np.repeat(real[:1], self.batch_size - len(real))])
            where = np.where(np.arange(self.batch_size) < len(real), indices[rows], -1)
            yield images[rows], _sparse(labels[rows]), where


def open_source(data, batch_size, limit, rank, size, division=None):
    """Opens data for one worker.

    Args:
        data: A `tfadv.data.Dataset`, a pair of arrays, or a batched `tf.data.Dataset` of pairs;
            images and labels may each stand in a dictionary of one.
        batch_size: Images per worker.
        limit: Only the first `limit` images, or None.
        rank: This worker.
        size: Number of workers.
        division: As of `Source`.

    Returns:
        A `Source`.

    Raises:
        ValueError: For data of another kind, of no images, or of images and labels that differ in
            number.
    """
    if division is not None:
        return _open_share(data, batch_size, limit, rank, size, division)
    if hasattr(data, "validation_batches"):
        chunks = data.validation_batches(batch_size, rank=rank, size=size, limit=limit)
        return Source(
            tf.TensorShape(data.image_shape),
            data.num_classes,
            int(chunks.cardinality()),
            _numpy(chunks),
            batch_size,
        )
    if isinstance(data, tf.data.Dataset):
        return _open_tf_data(data, batch_size, limit, rank, size)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return _open_arrays(*map(np.asarray, map(_single, data)), batch_size, limit, rank, size)
    raise ValueError(
        "data must be a tfadv.data.Dataset, a pair (images, labels) of arrays, or a batched "
        f"tf.data.Dataset of such pairs; received {type(data).__name__}"
    )


def _open_share(data, batch_size, limit, rank, size, division):
    count = None if limit is None else max(0, -(-(limit - rank) // size))
    source = open_source(data, batch_size, count or limit, 0, 1)
    if count == 0:
        return dataclasses.replace(source, num_batches=0, chunks=(), division=division)
    chunks = (
        (images, labels, np.where(np.asarray(indices) < 0, -1, indices * size + rank))
        for images, labels, indices in source.chunks
    )
    return dataclasses.replace(source, chunks=chunks, division=division)


def _open_arrays(images, labels, batch_size, limit, rank, size):
    if images.ndim < 2 or not len(images) or labels.shape[:1] != images.shape[:1]:
        raise ValueError(
            "data must be at least one image and a label for each; received arrays of shapes "
            f"{images.shape} and {labels.shape}"
        )
    count = len(images) if limit is None else min(limit, len(images))
    num_batches = validation_steps(count, batch_size, size)

    def chunks():
        mine = np.arange(rank, count, size)
        for batch in range(num_batches):
            rows = mine[batch * batch_size : (batch + 1) * batch_size]
            yield images[rows], labels[rows], rows

    return Source(
        tf.TensorShape(images.shape[1:]),
        _one_hot_classes(labels.shape),
        num_batches,
        chunks(),
        batch_size,
    )


def _open_tf_data(data, batch_size, limit, rank, size):
    spec = data.element_spec
    if isinstance(spec, tuple) and any(isinstance(part, dict) for part in spec):
        data = data.map(lambda *parts: tuple(map(_single, parts)))
        spec = data.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2) or any(
        not isinstance(part, tf.TensorSpec) for part in spec
    ):
        raise ValueError(f"data must give pairs (images, labels); received elements of {spec}")
    if spec[1].shape.rank == 0:
        raise ValueError("data must be batched: call .batch() on the tf.data.Dataset")
    if limit is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("data must end, or limit be given; received an endless tf.data.Dataset")
    data = data.unbatch()
    if limit is not None:
        data = data.take(limit)
    # By example, though every worker then reads all: sharding files or batches would leave the
    # workers unequal shares, and the index is what an image's draws are keyed by.
    chunks = data.enumerate().shard(size, rank).batch(batch_size).prefetch(1)
    return Source(
        spec[0].shape[1:],
        _one_hot_classes(spec[1].shape),
        None,
        ((images, labels, indices) for indices, (images, labels) in _numpy(chunks)),
        batch_size,
    )


def _single(part):
    return structures.single(part, "images or labels") if isinstance(part, dict) else part


def _numpy(batches):
    # Opened when it is iterated: what was opened for its checks alone costs nothing.
    yield from batches.as_numpy_iterator()


def _one_hot_classes(shape):
    shape = tf.TensorShape(shape)
    return shape[1] if shape.rank == 2 and shape[1] != 1 else None


def _sparse(labels):
    if _one_hot_classes(labels.shape) is not None:
        return labels.argmax(axis=1).astype(np.int32)
    labels = labels[:, 0] if labels.ndim == 2 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "labels must be integers [batch] or one-hot [batch, classes]; received "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int32)
