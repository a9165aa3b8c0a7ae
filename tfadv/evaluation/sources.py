"""The data of an evaluation, of any supported kind, as one worker's batches of one shape."""

import dataclasses
from collections.abc import Container, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.models import structures
from tfadv.steps import validation_steps

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """One worker's share of the images: those whose index is its rank modulo the number of workers.

    If the worker was given a share of its own, an image has the index that it would have if all
    workers dealt out one data set in turn, as `tf.data.Dataset.shard(size, rank)` and
    `images[rank::size]` do: these keep an image's index, and with it its random draws.

    Args:
        image_shape: A `tf.TensorShape`, of one image, possibly with unknown dimensions.
        num_classes: Number of classes, or None if the data do not say.
        num_batches: Number of batches of each worker, or None if it is known only at the end.
        chunks: (images, labels, indices) of at most a batch each, as arrays; index -1 is padding.
        batch_size: Images of every batch.
        division: String that identifies which worker holds which images; None if each holds all.
    """

    image_shape: tf.TensorShape
    num_classes: int | None
    num_batches: int | None
    chunks: Iterable[Batch]
    batch_size: int
    division: str | None = None

    def batches(self, known: Container[int] = ()) -> Iterator[Batch | None]:
        """Yields (images, labels int32 [batch_size], indices int64 [batch_size]) as NumPy arrays.

        All batches have the same size, so that one graph serves them all and an image has the same
        bits in each. Index -1 marks padding, which repeats the batch's last image: zeros could lie
        outside of the images' range, or make a model that standardizes images divide by zero. In
        place of a batch of nothing but padding it yields None.

        Args:
            known: Indices of images to leave out.
        """
        for images, labels, indices in self.unpadded(known):
            yield padded(images, labels, indices, self.batch_size) if len(indices) else None

    def unpadded(self, known: Container[int] = ()) -> Iterator[Batch]:
        """Yields what `batches` does without the padding, and so also batches without images."""
        for images, labels, indices in self.chunks:
            wanted = [index >= 0 and index not in known for index in indices.tolist()]
            rows = np.flatnonzero(wanted)
            yield images[rows], _sparse(labels[rows]), indices[rows]


def padded(images: np.ndarray, labels: np.ndarray, indices: np.ndarray, batch_size: int) -> Batch:
    """Fills a batch up to its size by repeating its last image, with the index -1."""
    padding = (0, batch_size - len(indices))
    rows = np.pad(np.arange(len(indices)), padding, mode="edge")
    return images[rows], labels[rows], np.pad(indices, padding, constant_values=-1)


def open_source(
    data: Any, batch_size: int, limit: int | None, rank: int, size: int, division: str | None = None
) -> Source:
    """Opens data for one worker.

    Args:
        data: A `tfadv.data.Dataset`, a pair of arrays, or a batched `tf.data.Dataset` of pairs.
            Images and labels may each be a dictionary of one entry.
        batch_size: Images per worker.
        limit: Number of first images to take, or None.
        rank: This worker.
        size: Number of workers.
        division: As in `Source`.

    Returns:
        A `Source`.

    Raises:
        ValueError: If the data are of another kind or hold no images, or if there are more or
            fewer images than labels.
    """
    if division is not None:
        # The images are shared out already, so the worker reads its data as if it were alone.
        count = None if limit is None else max(0, -(-(limit - rank) // size))
        source = open_source(data, batch_size, count or limit, 0, 1)
        if count == 0:
            return dataclasses.replace(source, num_batches=0, chunks=(), division=division)
        chunks = (
            (images, labels, np.where(indices < 0, -1, indices * size + rank))
            for images, labels, indices in source.chunks
        )
        return dataclasses.replace(source, chunks=chunks, division=division)
    if hasattr(data, "validation_batches"):
        batches = data.validation_batches(batch_size, rank=rank, size=size, limit=limit)
        return Source(
            tf.TensorShape(data.image_shape),
            data.num_classes,
            int(batches.cardinality()),
            _as_numpy(batches),
            batch_size,
        )
    if isinstance(data, tf.data.Dataset):
        return _open_tf_data(data, batch_size, limit, rank, size)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = (np.asarray(_single(part)) for part in data)
        return _open_arrays(images, labels, batch_size, limit, rank, size)
    raise ValueError(
        "data must be a tfadv.data.Dataset, a pair (images, labels) of arrays, or a batched "
        f"tf.data.Dataset of such pairs; received {type(data).__name__}"
    )


def _open_arrays(images, labels, batch_size, limit, rank, size):
    if images.ndim < 2 or not len(images) or labels.shape[:1] != images.shape[:1]:
        raise ValueError(
            "data must be at least one image and a label for each; received arrays of shapes "
            f"{images.shape} and {labels.shape}"
        )
    count = len(images) if limit is None else min(limit, len(images))
    num_batches = validation_steps(count, batch_size, size)
    indices = np.arange(rank, count, size)
    chunks = (
        (images[rows], labels[rows], rows)
        for rows in (indices[i * batch_size :][:batch_size] for i in range(num_batches))
    )
    num_classes = _one_hot_classes(labels.shape)
    return Source(tf.TensorShape(images.shape[1:]), num_classes, num_batches, chunks, batch_size)


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
    # Sharding by example makes every worker read all data, but files or batches would give the
    # workers unequal shares, and an image's index would no longer be known.
    batches = data.enumerate().shard(size, rank).batch(batch_size).prefetch(1)
    chunks = ((images, labels, indices) for indices, (images, labels) in _as_numpy(batches))
    return Source(spec[0].shape[1:], _one_hot_classes(spec[1].shape), None, chunks, batch_size)


def _single(part):
    return structures.single(part, "images or labels") if isinstance(part, dict) else part


def _as_numpy(batches):
    # A generator, so that a source that is opened only for its checks reads nothing.
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
