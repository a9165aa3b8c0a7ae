"""`digits`: the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries."""

import numpy as np

from tfadv.data import sampling
from tfadv.data.arrays import ArrayDataset

# One example in five validates.
_VALIDATION_EVERY = 5


def load(entry, data_dir, image_size, seed):
    """Opens `digits`.

    The original values 0..16 are scaled to 0..255 and rounded. The split is always the same and
    stratified: the examples, in an order drawn once and for all, are dealt out class by class, and
    every fifth is for validation: 1,437 for training and 360 for validation, 34 to 37 of each
    class. There is no augmentation: digits are small, centred and have a right way up.

    Args:
        entry: Its entry in `tfadv.tables.datasets`.
        data_dir: Not used.
        image_size: Not used; always 8.
        seed: Not used.

    Returns:
        An `ArrayDataset`.
    """
    del data_dir, image_size, seed
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = source.target.astype(np.int32)

    shuffled = sampling.fixed_permutation(len(labels), number=0)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    is_validation = np.zeros(len(labels), bool)
    is_validation[by_class[::_VALIDATION_EVERY]] = True
    # In shuffled order, so that the first n of the validation set are of all classes.
    train = shuffled[~is_validation[shuffled]]
    validation = shuffled[is_validation[shuffled]]
    return ArrayDataset(
        entry.name,
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        entry.num_classes,
        class_names=[str(digit) for digit in range(10)],
    )
