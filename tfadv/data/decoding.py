"""Decodes image files to RGB, and says which file could not be decoded and why.

What becomes of an image depends on its contents, whatever its name says:

    JPEG of any colours             RGB; also CMYK and grey, which ImageNet has
    PNG, GIF, BMP, WebP             RGB
    grey, palette, 1 bit (PNG)      RGB
    alpha                           dropped: the colour under it counts, blended with nothing
    16 bits a channel               the upper 8 count
    animated GIF or PNG             its first frame
    WebP, animated or with alpha    unreadable
    BMP with a palette of colours   unreadable: TensorFlow would take its indices for grey values
    more than `MAX_PIXELS`          unreadable: it is not decoded, so it takes no memory
    zero bytes, cut off, no image   unreadable
    bytes that do not arrive        unreadable: the file is gone, or its disk or server fails
    longer than 16 times its width  its middle part is evaluated (`imagenet_preprocessing`)

The size is the one in the file's header; for a GIF it is that of its screen, which its frames
should not exceed. An unreadable image ends an evaluation with an error that names it, and also a
training unless `--max_bad_images` lets it pass; `tfadv.predict` leaves it out.
"""

import re

import numpy as np
import tensorflow as tf

from tfadv.data import imagenet_preprocessing

# 256 MiB as RGB, and twenty times ImageNet's larger photographs. Pillow warns above it.
MAX_PIXELS = 2**28 // 3

UNREADABLE = "unreadable image file"
# Follows the name of a file whose bytes did not arrive at all.
FAILED = " (reading it failed)"
# What follows the name otherwise; the first is for files without a problem.
_PROBLEMS = (
    "",
    " (nothing could be read)",
    f" (more than {MAX_PIXELS:,} pixels)",
    " (a BMP with a palette)",
    FAILED,
)

# The slow transform, as accurate as other libraries': TensorFlow's default differs in some pixels.
_DCT = "INTEGER_ACCURATE"

_GREY_PALETTE = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))


def decode(contents):
    """Decodes a whole image file, a scalar string tensor, to uint8 [height, width, 3]."""
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=3, dct_method=_DCT),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )


def decode_random_crop(contents, key):
    """Decodes a training crop (`imagenet_preprocessing.random_crop_window`).

    Args:
        contents: Scalar string tensor, the bytes of a file; of a JPEG only the crop is decoded.
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
    """Calls a function in a graph, and returns a stand-in if one of its operations fails.

    A graph cannot catch a failing operation, but a `tf.data.Dataset` can drop a failing element. So
    the function maps a data set of a single element, followed by the stand-in, which is reached
    only if the element was dropped. That costs about 0.1 ms; decoding an image takes some.

    Args:
        function: Function of `arguments` that returns a tuple of tensors.
        arguments: Tuple of tensors.
        stand_in: Tuple of tensors of the same dtypes.
        then: Another function, which takes that result, and its stand-in, as a pair; or None.

    Returns:
        A tuple of tensors.
    """
    result = tf.data.Dataset.from_tensors(arguments)
    for step, instead in ((function, stand_in), *([then] if then else [])):
        result = result.map(tf.autograph.experimental.do_not_convert(step))
        instead = tf.data.Dataset.from_tensors(instead)
        result = result.ignore_errors().concatenate(instead).take(1)
    return result.get_single_element()


def attempt(read, arguments, decoder=decode):
    """Reads and decodes an image if it is readable.

    Args:
        read: Function of `arguments` that returns a file's bytes, such as `tf.io.read_file`.
        arguments: Tuple of tensors.
        decoder: Function of the bytes that returns uint8 [height, width, 3].

    Returns:
        The image, or one black pixel; whether it is readable, a scalar boolean tensor; and the
        problem, a scalar string tensor to append to the file's name, which may be empty.
    """
    pixel = tf.zeros([1, 1, 3], tf.uint8)

    def fetch(*arguments):
        return read(*arguments), True

    def decode_fetched(contents, fetched):
        problem = tf.where(fetched, _problem(contents), _PROBLEMS.index(FAILED))
        image = tf.cond(problem > 0, lambda: pixel, lambda: decoder(contents))
        return tf.ensure_shape(image, [None, None, 3]), tf.equal(problem, 0), problem

    # One after the other, to tell a failing file system from contents that are no image.
    then = decode_fetched, (pixel, False, 0)
    image, readable, problem = first_success(fetch, arguments, ("", False), then)
    return image, readable, tf.gather(_PROBLEMS, problem)


def named(read, arguments, name):
    """Reads and decodes an image, or fails with an error that names it.

    Args:
        read, arguments: As for `attempt`.
        name: Scalar string tensor, the file's name.

    Returns:
        The image. Computing it raises an `InvalidArgumentError`, which `explain` understands, if
        the image is unreadable.
    """
    image, readable, problem = attempt(read, arguments)
    check = tf.debugging.Assert(readable, [UNREADABLE, tf.strings.join([name, problem])])
    with tf.control_dependencies([check]):
        return tf.identity(image)


# Where formats other than JPEG write an image's sides: the format's mark and its place, and for
# each side the places of a number's bytes, the lowest first; the side is
# `number // divisor % modulus + added`. BMP is missing: TensorFlow refuses one that is shorter than
# its size says.
_SIDES = (
    (1, b"PNG", ((19, 18, 17, 16), 1, 2**32, 0), ((23, 22, 21, 20), 1, 2**32, 0)),
    (0, b"GIF8", ((6, 7), 1, 2**16, 0), ((8, 9), 1, 2**16, 0)),
    (8, b"WEBPVP8X", ((24, 25, 26), 1, 2**24, 1), ((27, 28, 29), 1, 2**24, 1)),
    (8, b"WEBPVP8L", ((21, 22, 23, 24), 1, 2**14, 1), ((21, 22, 23, 24), 2**14, 2**14, 1)),
    (8, b"WEBPVP8 ", ((26, 27), 1, 2**14, 0), ((28, 29), 1, 2**14, 0)),
)
_HEAD = 32  # bytes

# The same as matrices, so that the graph has few operations: each costs time for every image.
_MARKS = np.full([len(_SIDES), _HEAD], -1, np.int64)
_WEIGHTS = np.zeros([2 * len(_SIDES), _HEAD], np.int64)
_DIVISORS, _MODULI, _ADDED = np.zeros([3, 2 * len(_SIDES)], np.int64)
for _row, (_place, _mark, *_sides) in enumerate(_SIDES):
    _MARKS[_row, _place : _place + len(_mark)] = list(_mark)
    for _side, (_bytes, *_rule) in enumerate(_sides, 2 * _row):
        _WEIGHTS[_side, list(_bytes)] = 256 ** np.arange(len(_bytes))
        _DIVISORS[_side], _MODULI[_side], _ADDED[_side] = _rule


def _problem(contents):
    """The place in `_PROBLEMS` of what a file's header says against decoding it."""
    head = tf.io.decode_raw([contents], tf.uint8, fixed_length=_HEAD)[0]
    head = tf.cast(head, tf.int64)

    def jpeg():
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64))

    def other():
        sides = tf.reduce_sum(_WEIGHTS * head, axis=1) // _DIVISORS % _MODULI + _ADDED
        format = tf.reduce_all((_MARKS < 0) | tf.equal(_MARKS, head), axis=1)
        sizes = tf.reduce_prod(tf.reshape(tf.minimum(sides, 2**31), [-1, 2]), axis=1)
        return tf.reduce_sum(tf.where(format, sizes, 0))

    # The palette follows a BMP's two headers. The palette of an 8-bit grey image is allowed.
    length = tf.cast(tf.strings.length(contents), tf.int64)
    start = tf.minimum(14 + head[14], length)
    palette = tf.strings.substr(contents, start, len(_GREY_PALETTE))
    coloured = (
        tf.equal(tf.strings.substr(contents, 0, 2), b"BM")
        & tf.equal(head[28], 8)
        & tf.not_equal(palette, _GREY_PALETTE)
    )
    pixels = tf.cond(tf.io.is_jpeg(contents), jpeg, other)
    problems = [True, tf.equal(length, 0), pixels > MAX_PIXELS, coloured]
    return tf.reduce_max(tf.where(tf.stack(problems), tf.range(len(problems)), 0))


_MESSAGE = re.compile(rf"\[{UNREADABLE}\] \[(.*)\]\s*$", re.MULTILINE)
# The name of a damaged record (`imagenet.py`), without what may follow it.
_RECORD = re.compile(
    r"record \d+ of (.*?)( \(nothing could be read\)| \(more than max_| and all others of|$)"
)


def explain(error: BaseException) -> str | None:
    """Names the image file, or the damaged TFRecord file, that an input pipeline failed on.

    A decoding error of TensorFlow does not say which file it met. The pipelines of this package add
    the name; it arrives inside a long `InvalidArgumentError`, raised by the code that consumed the
    batch (`fit`, or a loop over the data set). The name is the path in an image folder; for
    `imagenet2012` it is the file's name in ImageNet's archives. If the file system still fails on
    that file, its own words are added.

    Args:
        error: An exception.

    Returns:
        One line, such as `"unreadable image file: <name>"`; None for any other error.
    """
    if isinstance(error, tf.errors.DataLossError) and " record at " in str(error):
        detail = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", str(error)).strip()
        return f"damaged file of a prepared data set (remove it and prepare it again): {detail}"
    name = _name(error)
    if name is None:
        return None
    reason = _reason(name)
    return f"{UNREADABLE}: {name}" + (f": {reason}" if reason else "")


def is_io_error(error: BaseException) -> bool:
    """Whether the file system failed, rather than the contents of the file that `explain` names.

    Args:
        error: An exception.

    Returns:
        True if a file did not open or its bytes did not arrive, because its disk or server fails or
        it is gone; it may well hold an image.
    """
    name = _name(error)
    return name is not None and (FAILED in name or _reason(name) is not None)


def _name(error):
    match = _MESSAGE.search(str(error))
    # TensorFlow escapes quotes and backslashes.
    return None if match is None else re.sub(r"\\(.)", r"\1", match.group(1))


def _reason(name):
    """The file system's error on reading a named file again; None if it now reads it."""
    record = _RECORD.match(name)
    if record is None and FAILED not in name:
        return None
    try:
        with open(record.group(1) if record else name.partition(FAILED)[0], "rb") as file:
            while file.read(2**20):
                pass
    except OSError as failure:
        return failure.strerror
    return None
