"""`image_folder`: a directory of images in ImageNet's usual layout.

What becomes of a file, by its name and kind (by its contents: `tfadv.data.decoding`):

    .jpeg .jpg .png .gif .bmp .webp  an image, of whatever format its contents are
    .tif .heic and so on             refused at the start: we cannot read it, and to leave it out
                                     would be to evaluate on fewer images than there are
    any other name, or a hidden one  no image: left out, as notes and lists are
    folder in a class's folder       left out
    link to an image or a class      followed, wherever it leads: parts of ImageNet are commonly
                                     made of links; a class is never searched deeper, so no link
                                     can lead around in a circle
    link to nothing                  refused at the start
    pipe, socket, device             refused at the start: reading it might never end
"""

import os
import stat

import numpy as np
import tensorflow as tf

from tfadv.data import catalog, sampling
from tfadv.data.encoded import EncodedDataset

_EXTENSIONS = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".webp")
_FOREIGN = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga")


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
        ValueError: If the layout is another one (`catalog.folder_classes`), or `train` or `val`
            holds no images.
    """

    def __init__(self, name, data_dir, image_size):
        classes = catalog.folder_classes(data_dir)
        train = _list_images(os.path.join(data_dir, "train"), classes)
        validation = _list_images(os.path.join(data_dir, "val"), classes)
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
        entry: The catalog's entry.
        data_dir: The directory.
        image_size: Height and width in pixels of the images that come out.
        seed: Not used.

    Returns:
        An `ImageFolder`.
    """
    del seed
    return ImageFolder(entry.name, data_dir, image_size)


def _is_image(item):
    name = item.name.lower()
    if name.startswith(".") or not name.endswith(_EXTENSIONS + _FOREIGN):
        return False
    if name.endswith(_FOREIGN):
        raise ValueError(
            f"data_dir must hold images as {', '.join(_EXTENSIONS)}; received {item.path}"
        )
    try:
        if item.is_file():  # asks the file system of links alone
            return True
        directory = stat.S_ISDIR(item.stat().st_mode)
    except OSError:
        raise ValueError(f"data_dir must not hold links to nothing; {item.path} is one") from None
    if not directory:
        raise ValueError(f"data_dir must hold plain files; {item.path} is none")
    return False


def _list_images(folder, classes):
    paths, labels = [], []
    for label, name in enumerate(classes):
        directory = os.path.join(folder, name)
        with os.scandir(directory) as items:
            files = sorted(item.name for item in items if _is_image(item))
        paths.extend(os.fsencode(os.path.join(directory, file)) for file in files)
        labels.extend([label] * len(files))
    if not paths:
        raise ValueError(
            f"data_dir must hold images ({', '.join(_EXTENSIONS)}); {folder} holds none"
        )
    return np.array(paths, object), np.array(labels, np.int32)
