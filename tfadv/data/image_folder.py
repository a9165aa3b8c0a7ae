"""`image_folder`: a directory of images in ImageNet's usual layout (`tfadv.data.folders`)."""

import numpy as np
import tensorflow as tf

from tfadv.data import sampling
from tfadv.data.encoded import EncodedDataset
from tfadv.tables import image_folders


class ImageFolder(EncodedDataset):
    """Images in `<data_dir>/train/<class>/` and `<data_dir>/val/<class>/`.

    The files are listed once. Training takes them in one order of all for each epoch, so their
    number, size and names do not matter. The validation order is an arbitrary one that never
    changes for the same files, so that its first n are of many classes.

    Args:
        name: The data set's name.
        data_dir: The directory.
        image_size: Height and width in pixels of the images that come out.

    Raises:
        ValueError: If the layout is another one, or a class has no images.
    """

    def __init__(self, name, data_dir, image_size):
        classes = image_folders.classes(data_dir)
        train, validation = (
            _list_images(data_dir, split, classes) for split in image_folders.SPLITS
        )
        order = sampling.fixed_permutation(len(validation[0]), number=0)
        super().__init__(
            name,
            len(classes),
            (image_size, image_size, 3),
            len(train[0]),
            len(order),
            class_names=classes,
        )
        with tf.device("CPU:0"):
            self._train_files = tuple(tf.constant(array) for array in train)
            self._validation_files = tuple(tf.constant(array[order]) for array in validation)

    def _contents(self, example):
        path, label = example
        return (path,), tf.io.read_file, label, path

    def _train_batches(self, examples, batch_size):
        paths, labels = self._train_files

        @tf.autograph.experimental.do_not_convert
        def find(key, index):
            return key, (tf.gather(paths, index), tf.gather(labels, index))

        return super()._train_batches(examples.map(find), batch_size)

    def _validation_examples(self, num_examples, batch_size, rank, size):
        paths, labels = self._validation_files
        indices = sampling.validation_indices(num_examples, batch_size, rank, size)

        @tf.autograph.experimental.do_not_convert
        def find(index):
            row = tf.maximum(index, 0)
            return index, (tf.gather(paths, row), tf.gather(labels, row))

        return tf.data.Dataset.from_tensor_slices(indices.reshape(-1)).map(find)


def load(entry, data_dir, image_size, seed):
    """Opens a directory of images.

    Args:
        entry: Its entry in `tfadv.tables.datasets`.
        data_dir: The directory.
        image_size: Height and width in pixels of the images that come out.
        seed: Not used.

    Returns:
        An `ImageFolder`.
    """
    del seed
    return ImageFolder(entry.name, data_dir, image_size)


def _list_images(data_dir, split, classes):
    paths, labels = zip(*image_folders.images(data_dir, split, classes), strict=True)
    return np.array(paths, object), np.array(labels, np.int32)
