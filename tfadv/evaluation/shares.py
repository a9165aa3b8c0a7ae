"""Whether each worker of an evaluation holds all of its images, or a share of them."""

import dataclasses
import hashlib
import warnings

import numpy as np
import tensorflow as tf

from tfadv import distributed
from tfadv.data import ArrayDataset

# Of the images of the smallest share, in percent: how many may be another's too, as the doubles
# within a data set are. More are a mistake in how it was divided.
_DOUBLES = 1
_ARRAYS = "arrays"


@dataclasses.dataclass(frozen=True)
class _Images:
    """What one worker holds.

    Args:
        kind: String, which says more of images that only files hold: those are not read for this.
        digests: Of each image, an array of 64-bit integers.
        labels: Digest of all labels.
    """

    kind: str
    digests: np.ndarray
    labels: str

    @property
    def checksum(self):
        return _digest(self.kind.encode(), self.digests.tobytes(), self.labels.encode())


def compare(data, limit, mistake=None):
    """Compares what the workers hold.

    Args:
        data: Data, as of `evaluate`.
        limit: Only the first `limit` images count, or None.
        mistake: String, what is wrong with this worker's data, or None.

    Returns:
        None if every worker holds all images, in one order; a string that identifies this division
        of them if no two workers hold the same ones.

    Raises:
        ValueError: On all workers, if it is neither, or if there is a mistake on any.
    """
    images = None if mistake else _read(data, limit)
    mine = (mistake, *((images.checksum, len(images.digests), images.kind) if images else ()))
    gathered = distributed.gather_object(mine)
    for rank, (mistake, *_) in enumerate(gathered):
        if mistake:
            raise ValueError(f"{mistake} (on worker {rank})")
    _, checksums, counts, kinds = zip(*gathered, strict=True)
    if len(set(checksums)) == 1:
        return None
    if len(set(kinds)) > 1:
        _refuse(counts, "", kinds)
    _check_disjoint(distributed.gather_object(images.digests), counts)
    return _digest(*(checksum.encode() for checksum in checksums))


def _check_disjoint(digests, counts):
    sets = [np.unique(of_worker) for of_worker in digests]
    images, number = np.unique(np.concatenate(sets), return_counts=True)
    several = images[number > 1]
    if not len(several):
        return
    holders = [rank for rank, held in enumerate(sets) if several[0] in held][:2]
    shared = len(np.intersect1d(*(sets[rank] for rank in holders)))
    if all(np.array_equal(held, sets[0]) for held in sets):
        _refuse(counts, "the same ones in another order or with other labels")
    if 100 * len(several) > _DOUBLES * min(counts):
        first, second = holders
        _refuse(counts, f"{shared} of those on worker {second} are on worker {first} too")
    if distributed.rank() == 0:
        warnings.warn(
            f"{len(several)} images are on more than one worker, and count on each of them",
            stacklevel=2,
        )


def _refuse(counts, detail, kinds=None):
    held = [f"{count} images" for count in counts]
    if kinds is not None:
        held = [h if kind == _ARRAYS else kind for h, kind in zip(held, kinds, strict=True)]
    raise ValueError(
        "data must be all images on every worker, in one order, or a share of its own on each; "
        f"received {', '.join(filter(None, [distributed.by_worker(held), detail]))}"
    )


def _read(data, limit):
    if hasattr(data, "validation_batches") and not isinstance(data, ArrayDataset):
        kind = f"{data.name}, {data.num_validation} images of shape {data.image_shape}"
        return _Images(kind, np.zeros(0, np.uint64), "")
    digests, labels = [], hashlib.blake2b(digest_size=8)
    for images, of_images in _batches(data, limit):
        digests += [_digest(image.tobytes()) for image in images]
        labels.update(np.ascontiguousarray(of_images).tobytes())
    digests = np.array([int(digest, 16) for digest in digests], np.uint64)
    return _Images(_ARRAYS, digests, labels.hexdigest())


def _batches(data, limit):
    """(images, labels) as arrays, of the first `limit` images."""
    if isinstance(data, tf.data.Dataset):
        left = limit
        for images, labels in data.as_numpy_iterator():
            yield images[:left], labels[:left]
            if left is not None:
                left -= len(images)
                if left <= 0:
                    return
    elif isinstance(data, ArrayDataset):
        for images, labels, indices in data.validation_batches(256, limit=limit):
            real = indices.numpy() >= 0
            yield images.numpy()[real], labels.numpy()[real]
    else:
        images, labels = map(np.asarray, data)
        yield images[:limit], labels[:limit]


def _digest(*texts):
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text)
    return digest.hexdigest()
