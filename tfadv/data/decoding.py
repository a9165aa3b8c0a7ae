"""Decodes image files to RGB, and says what is wrong with the ones that cannot be decoded.

What becomes of an image, by its contents, whatever its name says:

    JPEG of any colours            RGB; CMYK and grey ones too, as ImageNet has them
    PNG, GIF, BMP, WebP            RGB
    grey, palette, 1 bit (PNG)     RGB
    alpha                          dropped: the colour below it counts, not blended with anything
    16 bits a channel              the upper 8 count
    animated GIF or PNG            its first frame
    WebP, animated or with alpha   cannot be read
    BMP with a palette of colours  cannot be read: TensorFlow would take its indices for grey values
    over `MAX_PIXELS`              cannot be read: not decoded at all, so it takes no memory
    zero bytes, cut off, no image  cannot be read
    bytes that do not come         cannot be read: the file is gone, or its disk or server fails
    longer than 16 times its width its middle part is evaluated (`imagenet_preprocessing`)

The size is the one in the file's header; of a GIF that of its screen, which its frames should not
exceed. An image that cannot be read is named: it ends an evaluation, and a training too unless
`--max_bad_images` lets it pass (`tfadv.data.broken`); `tfadv.predict` leaves it out.
"""

import numpy as np
import tensorflow as tf

from tfadv.data import imagenet_preprocessing
from tfadv.data.errors import FAILED, UNREADABLE

# 256 MiB as RGB, and twenty times ImageNet's larger photographs. Pillow warns from here on.
MAX_PIXELS = 2**28 // 3

# The slow transform, as accurate as other libraries': TensorFlow's default differs in some pixels.
_DCT = "INTEGER_ACCURATE"

_GREY_PALETTE = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))


def decode(contents):
    """A whole image.

    Args:
        contents: Scalar string tensor, the bytes of a file.

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


def first_success(function, arguments, stand_in, then=None):
    """What a function returns, or where one of its operations fails, a stand-in.

    A graph cannot catch an operation that fails. But a `tf.data.Dataset` can drop an element that
    fails. So the function runs in one of a single element, followed by the stand-in, which is
    reached only if the element was dropped. That costs about 0.1 ms, where decoding an image takes
    some.

    Args:
        function: Of `arguments`; returns a tuple of tensors.
        arguments: Tuple of tensors.
        stand_in: Tuple of tensors of the same dtypes.
        then: Pair of another function, of what came, and its stand-in; None for no more than that.

    Returns:
        A tuple of tensors.
    """
    attempt = tf.data.Dataset.from_tensors(arguments)
    for step, instead in ((function, stand_in), *([then] if then else [])):
        attempt = attempt.map(tf.autograph.experimental.do_not_convert(step))
        instead = tf.data.Dataset.from_tensors(instead)
        attempt = attempt.ignore_errors().concatenate(instead).take(1)
    return attempt.get_single_element()


def attempt(read, arguments, decoder=decode):
    """Reads and decodes an image, if that can be done.

    Args:
        read: Function of `arguments` that returns a file's bytes, such as `tf.io.read_file`.
        arguments: Tuple of tensors.
        decoder: Function of the bytes that returns uint8 [height, width, 3].

    Returns:
        The image, or one black pixel; whether it could be read, a scalar boolean tensor; and why
        not, a scalar string tensor to put behind its name, which may be empty.
    """
    pixel = tf.zeros([1, 1, 3], tf.uint8)

    def fetch(*arguments):
        return read(*arguments), True

    def whole(contents, fetched):
        problem = tf.where(fetched, _problem(contents), _PROBLEMS.index(FAILED))
        image = tf.cond(problem > 0, lambda: pixel, lambda: decoder(contents))
        return tf.ensure_shape(image, [None, None, 3]), tf.equal(problem, 0), problem

    # One after the other, to tell a file system that fails from contents that are no image.
    then = whole, (pixel, False, 0)
    image, readable, problem = first_success(fetch, arguments, ("", False), then)
    return image, readable, tf.gather(_PROBLEMS, problem)


def named(read, arguments, name, decoder=decode):
    """Reads and decodes an image in a graph so that a failure names the file.

    Args:
        read, arguments, decoder: As of `attempt`.
        name: Scalar string tensor, the file's name.

    Returns:
        The image. Reading it raises `InvalidArgumentError` with a message that `errors.explain`
        understands, if it cannot be read.
    """
    image, readable, problem = attempt(read, arguments, decoder)
    check = tf.debugging.Assert(readable, [UNREADABLE, tf.strings.join([name, problem])])
    with tf.control_dependencies([check]):
        return tf.identity(image)


# Where formats other than JPEG write an image's sides: their mark at a place; then for either side
# the bytes of a number, the lowest first, of which `number // divisor % modulus + 1` or `+ 0` is
# meant. A BMP is not among them: TensorFlow refuses one that is shorter than its size says.
_SIDES = (
    (1, b"PNG", ((19, 18, 17, 16), 1, 2**32, 0), ((23, 22, 21, 20), 1, 2**32, 0)),
    (0, b"GIF8", ((6, 7), 1, 2**16, 0), ((8, 9), 1, 2**16, 0)),
    (8, b"WEBPVP8X", ((24, 25, 26), 1, 2**24, 1), ((27, 28, 29), 1, 2**24, 1)),
    (8, b"WEBPVP8L", ((21, 22, 23, 24), 1, 2**14, 1), ((21, 22, 23, 24), 2**14, 2**14, 1)),
    (8, b"WEBPVP8 ", ((26, 27), 1, 2**14, 0), ((28, 29), 1, 2**14, 0)),
)
_HEAD = 32  # bytes

# The same as matrices, so that a graph has few operations: they cost each image, and each tracing.
_MARKS = np.full([len(_SIDES), _HEAD], -1, np.int64)
_WEIGHTS = np.zeros([2 * len(_SIDES), _HEAD], np.int64)
_DIVISORS, _MODULI, _ADDED = np.zeros([3, 2 * len(_SIDES)], np.int64)
for _row, (_place, _mark, *_sides) in enumerate(_SIDES):
    _MARKS[_row, _place : _place + len(_mark)] = list(_mark)
    for _side, (_bytes, *_rule) in enumerate(_sides, 2 * _row):
        _WEIGHTS[_side, list(_bytes)] = 256 ** np.arange(len(_bytes))
        _DIVISORS[_side], _MODULI[_side], _ADDED[_side] = _rule

_PROBLEMS = (
    "",
    " (nothing could be read)",
    f" (more than {MAX_PIXELS:,} pixels)",
    " (a BMP with a palette)",
    FAILED,
)


def _problem(contents):
    """What the header tells against an image, a place in `_PROBLEMS`."""
    head = tf.io.decode_raw([contents], tf.uint8, fixed_length=_HEAD)[0]
    head = tf.cast(head, tf.int64)

    def jpeg():
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64))

    def other():
        sides = tf.reduce_sum(_WEIGHTS * head, axis=1) // _DIVISORS % _MODULI + _ADDED
        format = tf.reduce_all((_MARKS < 0) | tf.equal(_MARKS, head), axis=1)
        sizes = tf.reduce_prod(tf.reshape(tf.minimum(sides, 2**31), [-1, 2]), axis=1)
        return tf.reduce_sum(tf.where(format, sizes, 0))

    # Behind a BMP's two headers; of 8 bits, and not the grey values themselves.
    length = tf.cast(tf.strings.length(contents), tf.int64)
    start = tf.minimum(14 + head[14], length)
    palette = tf.strings.substr(contents, start, len(_GREY_PALETTE))
    coloured = (
        tf.equal(tf.strings.substr(contents, 0, 2), b"BM")
        & tf.equal(head[28], 8)
        & tf.not_equal(palette, _GREY_PALETTE)
    )
    pixels = tf.cond(tf.io.is_jpeg(contents), jpeg, other)
    found = [True, tf.equal(length, 0), pixels > MAX_PIXELS, coloured]
    return tf.reduce_max(tf.where(tf.stack(found), tf.range(len(found)), 0))
