"""Compares the data of several workers: each must hold all images, or a share of its own."""

import hashlib
import warnings
from typing import Any

import numpy as np

from tfadv import distributed
from tfadv.data import ArrayDataset
from tfadv.evaluation.sources import Source

# Data sets hold some images twice, so a few may be in two shares: at most this percentage of the
# smallest share. More of them mean that the data were divided wrongly.
_DUPLICATES = 1
_ARRAYS = "arrays"


def compare(data: Any, source: Source | None, error: str | None = None) -> str | None:
    """Compares the data of all workers, which must call it together.

    Args:
        data: This worker's data, as of `evaluate`.
        source: The data, opened as if this worker were alone; None if there is an error.
        error: String, what is wrong with this worker's data, or None.

    Returns:
        None if every worker holds all images, in one order; a string that identifies the division
        if each worker holds a share of its own.

    Raises:
        ValueError: On all workers, if it is neither, or if one of them has an error.
    """
    kind, digests, label_digest = _ARRAYS, np.zeros(0, np.uint64), ""
    if error is None:
        if hasattr(data, "validation_batches") and not isinstance(data, ArrayDataset):
            # A data set in files is identified by its description, since reading it takes long.
            kind = f"{data.name}, {data.num_validation} images of shape {data.image_shape}"
        else:
            digests, label_digest = _digests(source)
    checksum = _digest(kind.encode(), digests.tobytes(), label_digest.encode())
    gathered = distributed.gather_object((error, checksum, len(digests), kind))
    errors, checksums, counts, kinds = zip(*gathered, strict=True)
    for rank, error in enumerate(errors):
        if error is not None:
            raise ValueError(f"{error} (on worker {rank})")
    if len(set(checksums)) == 1:
        return None
    if len(set(kinds)) > 1:
        pairs = zip(counts, kinds, strict=True)
        _refuse(f"{count} images" if kind == _ARRAYS else kind for count, kind in pairs)
    _check_disjoint(distributed.gather_object(digests), [f"{count} images" for count in counts])
    return _digest(*(checksum.encode() for checksum in checksums))


def _check_disjoint(digests, held):
    shares = [np.unique(share) for share in digests]
    images, number = np.unique(np.concatenate(shares), return_counts=True)
    duplicates = images[number > 1]
    if not len(duplicates):
        return
    if all(np.array_equal(share, shares[0]) for share in shares):
        _refuse(held, "the same ones in another order or with other labels")
    if 100 * len(duplicates) > _DUPLICATES * min(map(len, digests)):
        first, second = [rank for rank, share in enumerate(shares) if duplicates[0] in share][:2]
        common = len(np.intersect1d(shares[first], shares[second]))
        _refuse(held, f"{common} of those on worker {second} are on worker {first} too")
    if distributed.rank() == 0:
        warnings.warn(
            f"{len(duplicates)} images are on more than one worker, and count on each of them",
            stacklevel=2,
        )


def _refuse(held, *details):
    raise ValueError(
        "data must be all images on every worker, in one order, or a share of its own on each; "
        f"received {', '.join([distributed.by_worker(held), *details])}"
    )


def _digests(source):
    """A 64-bit digest of each image, and one of all labels."""
    digests, all_labels = [], hashlib.blake2b(digest_size=8)
    for images, labels, indices in source.chunks:
        real = indices >= 0
        digests += [int(_digest(image.tobytes()), 16) for image in images[real]]
        all_labels.update(np.ascontiguousarray(labels[real]).tobytes())
    return np.array(digests, np.uint64), all_labels.hexdigest()


def _digest(*texts):
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text)
    return digest.hexdigest()
