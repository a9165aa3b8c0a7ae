"""Decodes image files to RGB, and names the one that cannot be decoded."""

import tensorflow as tf

from tfadv.data import imagenet_preprocessing
from tfadv.data.errors import UNREADABLE

# The slow transform, as accurate as other libraries': TensorFlow's default differs in some pixels.
_DCT = "INTEGER_ACCURATE"


def decode(contents):
    """A whole image.

    ImageNet holds grey and CMYK JPEGs and PNGs that are called JPEG: all come out as RGB.

    Args:
        contents: Scalar string tensor, the bytes of a JPEG, PNG, GIF (its first frame) or BMP.

    Returns:
        uint8 [height, width, 3].
    """
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=3, dct_method=_DCT),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )


def decode_random_crop(contents, key):
    """A training crop (`imagenet_preprocessing.random_crop_window`); of a JPEG only that part.

    Args:
        contents: Scalar string tensor.
        key: int64 [2].

    Returns:
        uint8 [height, width, 3], of the crop.
    """

    def jpeg():
        window = imagenet_preprocessing.random_crop_window(tf.io.extract_jpeg_shape(contents), key)
        return tf.io.decode_and_crop_jpeg(contents, window, channels=3, dct_method=_DCT)

    def other():
        image = decode(contents)
        window = imagenet_preprocessing.random_crop_window(tf.shape(image), key)
        return tf.slice(image, [window[0], window[1], 0], [window[2], window[3], 3])

    return tf.cond(tf.io.is_jpeg(contents), jpeg, other)


def named(decoder, arguments, name):
    """Runs a decoder in a graph so that its failure names the file.

    A TensorFlow operation that fails says nothing of the file, and a graph cannot catch it. But a
    `tf.data.Dataset` can drop an element that fails. So the decoder runs in one of a single
    element, followed by a stand-in that is reached only if the element was dropped. That costs
    about 0.1 ms an image, where decoding takes some.

    Args:
        decoder: Function of `arguments` that returns uint8 [height, width, 3].
        arguments: Tuple of tensors.
        name: Scalar string tensor, the file's name.

    Returns:
        The decoder's result. Reading it raises `InvalidArgumentError` with a message that
        `errors.explain` understands, if the decoder fails.
    """
    attempt = tf.data.Dataset.from_tensors(arguments).map(
        lambda *arguments: (tf.ensure_shape(decoder(*arguments), [None, None, 3]), True)
    )
    stand_in = tf.data.Dataset.from_tensors((tf.zeros([1, 1, 3], tf.uint8), False))
    image, ok = attempt.ignore_errors().concatenate(stand_in).take(1).get_single_element()
    with tf.control_dependencies([tf.debugging.Assert(ok, [UNREADABLE, name])]):
        return tf.identity(image)
