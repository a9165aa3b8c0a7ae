"""Directories of images: `image_folder`, with one folder a class, and unlabelled images."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from tfadv.data import decoding, imagenet_preprocessing, sampling
from tfadv.data.encoded import EncodedDataset
from tfadv.tables import image_folders


class ImageFolder(EncodedDataset):
    """Images in `<data_dir>/train/<class>/` and `<data_dir>/val/<class>/`.

    The files are listed once. Each epoch takes them in one order of all, so their number, size and
    names do not matter. The validation order is arbitrary, but never changes for the same files, so
    that its first n are of many classes.

    Raises:
        ValueError: If the layout is another one, or a class has no images.
    """

    def __init__(self, name, data_dir, image_size):
        classes = image_folders.classes(data_dir)
        train, validation = (
            _list_images(data_dir, split, classes) for split in image_folders.SPLITS
        )
        order = sampling.fixed_permutation(len(validation[0]))
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
        def look_up(key, index):
            return key, (tf.gather(paths, index), tf.gather(labels, index))

        return super()._train_batches(examples.map(look_up), batch_size)

    def _validation_examples(self, num_examples, batch_size, rank, size):
        paths, labels = self._validation_files
        indices = sampling.validation_indices(num_examples, batch_size, rank, size)

        @tf.autograph.experimental.do_not_convert
        def look_up(index):
            row = tf.maximum(index, 0)
            return index, (tf.gather(paths, row), tf.gather(labels, row))

        return tf.data.Dataset.from_tensor_slices(indices.reshape(-1)).map(look_up)


def load(entry, data_dir, image_size, seed):
    """Opens a directory of images in ImageNet's usual layout (`tfadv.tables.image_folders`)."""
    del seed
    return ImageFolder(entry.name, data_dir, image_size)


def _list_images(data_dir, split, classes):
    paths, labels = zip(*image_folders.images(data_dir, split, classes), strict=True)
    return np.array(paths, object), np.array(labels, np.int32)


def list_files(directory):
    """Lists the files of a directory and the directories in it, whatever their names end in.

    Names that begin with a dot are left out, and so are the folders that tools make, such as
    `__MACOSX`, and links to directories, which may lead anywhere, even in a circle. Links to files
    are followed.

    Args:
        directory: String or path.

    Returns:
        A sorted list of strings, paths relative to `directory`.

    Raises:
        ValueError: If it is no directory, or holds no file.
        OSError: If a directory in it cannot be read.
    """

    def fail(error):
        raise error  # `os.walk` would pass over it, and over the images in it

    root = pathlib.Path(directory)
    if not root.is_dir():
        raise ValueError(f"the images must be in a directory; received {str(directory)!r}")
    paths = []
    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not image_folders.is_foreign(name)]
        paths += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    if not paths:
        raise ValueError(f"the directory must hold images; {str(directory)!r} holds no file")
    return sorted(os.path.relpath(path, root) for path in paths)


def unlabelled_batches(directory, files, image_shape, batch_size):
    """Reads images, each resized without keeping its aspect ratio, bicubic (pipeline).

    Args:
        directory: String or path.
        files: List of strings, from `list_files`.
        image_shape: `(height, width, channels)` that comes out; one channel is the luminance.
        batch_size: Integer.

    Yields:
        Images, uint8 `[batch_size, height, width, channels]`, and booleans `[batch_size]`, whether
        each is readable, in the order of the files. The last batch is padded with unreadable ones.
    """
    height, width, channels = image_shape

    def read(path):
        image, readable, _ = decoding.attempt(tf.io.read_file, (path,))
        if channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        image = imagenet_preprocessing.resize(image, height, width)
        image = tf.ensure_shape(imagenet_preprocessing.to_uint8(image), image_shape)
        return image, readable

    # As bytes, because file names need not be text. Only plain files are opened: a pipe might never
    # end.
    paths = [os.path.join(directory, file) for file in files]
    paths = [os.fsencode(path) if os.path.isfile(path) else b"" for path in paths]
    paths = np.array([*paths, *[b""] * (-len(files) % batch_size)], object)
    examples = tf.data.Dataset.from_tensor_slices(paths).map(
        tf.autograph.experimental.do_not_convert(read), num_parallel_calls=tf.data.AUTOTUNE
    )
    examples = examples.batch(batch_size, drop_remainder=True).prefetch(1)
    yield from examples.as_numpy_iterator()
