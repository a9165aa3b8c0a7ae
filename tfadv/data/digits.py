"""`digits`: the 1,797 handwritten digits of 8x8 pixels in scikit-learn."""

import numpy as np

from tfadv.data import sampling
from tfadv.data.arrays import ArrayDataset

# One example in five validates.
_VALIDATION_EVERY = 5


def load(entry, data_dir, image_size, seed):
    """Opens `digits`: 1,437 images for training, 360 for validation, 34 to 37 of each class.

    The original values 0..16 are scaled to 0..255 and rounded. The split is always the same and
    stratified: the examples, in a fixed order, are dealt out class by class, and every fifth is for
    validation. There is no augmentation: digits are small, centred and have a right way up.
    """
    del data_dir, image_size, seed
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = source.target

    shuffled = sampling.fixed_permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Both parts stay shuffled, so that the first n of the validation set are of all classes.
    validates = np.isin(shuffled, by_class[::_VALIDATION_EVERY])
    train, validation = shuffled[~validates], shuffled[validates]
    return ArrayDataset(
        entry.name,
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        entry.num_classes,
        class_names=[str(digit) for digit in range(10)],
    )
