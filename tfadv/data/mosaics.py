"""`fashion_mosaics`: 100 classes, each a pair of the ten of Fashion-MNIST.

With many classes a random target is far from the true class, as in ImageNet, and a network needs
more capacity than for ten.
"""

import numpy as np

from tfadv.data import tfds_arrays
from tfadv.data.arrays import ArrayDataset


def load(entry, data_dir, image_size, seed):
    """Makes the mosaics from the images of a split: as many as the split has images.

    Raises:
        ValueError: If the files cannot be read.
    """
    del image_size, seed
    train, validation, names = tfds_arrays.read(entry, data_dir)
    return ArrayDataset(
        entry.name,
        mosaics(*train, len(names)),
        mosaics(*validation, len(names)),
        entry.num_classes,
        class_names=[f"{first} and {second}" for first in names for second in names],
    )


def mosaics(images, labels, num_classes):
    """Makes mosaics of four images each, at half their height and width.

    The upper left and lower right images are of class a, the other two of class b, and the class of
    the mosaic is `num_classes * a + b`. Each image is the upper left one of one mosaic. The others
    are always the same.

    Args:
        images: uint8 `[n, height, width, channels]`, of even height and width.
        labels: Integers `[n]`, from 0 to `num_classes - 1`.
        num_classes: Integer.

    Returns:
        Images and labels, uint8 in the shape of `images` and integers `[n]`.
    """
    # NumPy promises not to change the raw bits; it promises that of no other draw.
    bits = np.random.Philox(key=1).random_raw((3, len(labels))) >> np.uint64(1)
    bits = bits.astype(np.int64)
    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=num_classes)
    starts = np.cumsum(sizes) - sizes

    def another(of_class, bits):
        return by_class[starts[of_class] + bits % sizes[of_class]]

    upper_right = bits[0] % len(labels)
    others = labels[upper_right]
    lower_left, lower_right = another(others, bits[1]), another(labels, bits[2])
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    small = ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)
    rows = [(small, small[upper_right]), (small[lower_left], small[lower_right])]
    tiles = [np.concatenate(row, axis=2) for row in rows]
    return np.concatenate(tiles, axis=1), num_classes * labels + others
