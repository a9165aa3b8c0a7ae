"""`synthetic`: random images, to measure speed without a disk (the pipeline's fake data)."""

import numpy as np
import tensorflow as tf

from tfadv.data.arrays import ArrayDataset

# Distinct images; example k is image k modulo this.
_POOL = 64


class SyntheticDataset(ArrayDataset):
    """A few random images and labels, repeated: nothing is read, decoded or augmented."""

    def __init__(self, name, num_classes, image_shape, num_train, num_validation, seed):
        generator = np.random.Generator(np.random.Philox(key=seed % 2**63))
        images = generator.integers(0, 256, (_POOL, *image_shape), dtype=np.uint8)
        labels = generator.integers(0, num_classes, _POOL, dtype=np.int32)
        super().__init__(name, (images, labels), (images, labels), num_classes)
        self.num_train = num_train
        self.num_validation = num_validation

    def _rows(self, indices):
        return indices % _POOL

    def _order(self, epoch, seed):
        del epoch, seed  # Shuffling random images would only cost time.
        return tf.range(self.num_train, dtype=tf.int64)


def load(entry, data_dir, image_size, seed, num_classes=None, num_train=None, num_validation=None):
    """Opens `synthetic`, whose images `seed` draws; as large as ImageNet unless told otherwise."""
    del data_dir
    return SyntheticDataset(
        entry.name,
        num_classes or entry.num_classes,
        (image_size, image_size, entry.channels),
        num_train or entry.num_train,
        num_validation or entry.num_validation,
        seed,
    )
