"""Images of a directory without labels, to be classified."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from tfadv.data import decoding, imagenet_preprocessing
from tfadv.tables import image_folders


def list_files(directory):
    """All files of a directory and the directories in it, whatever their names end in.

    Names that begin with a dot are left out, and so are the folders that tools make, such as
    `__MACOSX`, and links to directories, which may lead anywhere, in a circle too. Links to files
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
        raise error  # which `os.walk` would pass over, and the images with it

    root = pathlib.Path(directory)
    if not root.is_dir():
        raise ValueError(f"the images must be in a directory; received {str(directory)!r}")
    found = []
    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not image_folders.is_foreign(name)]
        found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    if not found:
        raise ValueError(f"the directory must hold images; {str(directory)!r} holds no file")
    return sorted(os.path.relpath(path, root) for path in found)


def batches(directory, files, image_shape, batch_size):
    """Reads images, each resized without keeping its aspect ratio, bicubic (pipeline).

    Args:
        directory: String or path.
        files: List of strings, as of `list_files`.
        image_shape: `(height, width, channels)` that comes out; one channel is the luminance.
        batch_size: Integer.

    Yields:
        Images, uint8 `[batch_size, height, width, channels]`, and booleans `[batch_size]`, which of
        them could be read; in the order of the files, the last batch padded with what could not.
    """
    height, width, channels = image_shape

    def read(path):
        image, readable, _ = decoding.attempt(tf.io.read_file, (path,))
        if channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        image = imagenet_preprocessing.resize(image, height, width)
        image = tf.ensure_shape(imagenet_preprocessing.to_uint8(image), image_shape)
        return image, readable

    # As bytes: the system's names of files need not be text. What is no plain file is not opened,
    # and so cannot be read: a pipe might never end.
    paths = [os.path.join(directory, file) for file in files]
    paths = [os.fsencode(path) if os.path.isfile(path) else b"" for path in paths]
    paths = np.array([*paths, *[b""] * (-len(files) % batch_size)], object)
    examples = tf.data.Dataset.from_tensor_slices(paths).map(
        tf.autograph.experimental.do_not_convert(read), num_parallel_calls=tf.data.AUTOTUNE
    )
    examples = examples.batch(batch_size, drop_remainder=True).prefetch(1)
    yield from examples.as_numpy_iterator()
