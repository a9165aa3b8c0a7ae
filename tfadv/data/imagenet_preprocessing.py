"""The pipeline's preparation of ImageNet's images (that of fb.resnet.torch), one image at a time.

Everything is computed in float32, then clipped to [0, 255] and rounded to uint8 once, at the end:
bicubic interpolation, brightness and lighting leave that range, and the attack requires images
inside it. All draws are stateless, from a key.
"""

import tensorflow as tf

# Section "Images" of the pipeline: area and aspect of a training crop.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
_TRIES = 10

COLOR_FACTORS = (0.6, 1.4)

# Lighting noise: deviation, and the principal components of ImageNet's RGB values.
LIGHTING_DEVIATION = 0.1
EIGENVALUES = (0.2175 * 255, 0.0188 * 255, 0.0045 * 255)
EIGENVECTORS = (  # one row per channel, one column per eigenvector
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in the pipeline's OpenCV.

# The shorter edge of a validation image: 256 for a crop of 224.
_EDGE_PER_CROP = 256 / 224

# The largest ratio of a validation image's sides: a line of pixels, resized whole, fills memory.
_LONGEST = 16


def random_crop_window(shape, key):
    """Draws the part of an image that a training crop shows.

    The area is uniform from 8% to 100% of the image's, the aspect ratio uniform from 3/4 to 4/3 and
    inverted half of the time, and the place uniform. The first of ten such draws that fits in the
    image counts; if none does, the largest square in the middle.

    Args:
        shape: int32 [2] or more, the image's height and width in pixels first.
        key: int64 [2].

    Returns:
        int32 [4]: top, left, height, width in pixels.
    """
    height, width = shape[0], shape[1]
    draws = tf.random.stateless_uniform([_TRIES, 5], key, alg="philox")
    area = _between(draws[:, 0], AREA) * tf.cast(height * width, tf.float32)
    aspect = _between(draws[:, 1], ASPECT)
    aspect = tf.where(draws[:, 2] < 0.5, aspect, 1 / aspect)
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths <= width) & (heights <= height) & (widths > 0) & (heights > 0)
    tops = _place(draws[:, 3], height - heights)
    lefts = _place(draws[:, 4], width - widths)

    square = tf.minimum(height, width)
    middle = tf.stack([(height - square) // 2, (width - square) // 2, square, square])
    windows = tf.concat([tf.stack([tops, lefts, heights, widths], axis=1), middle[None]], axis=0)
    return windows[tf.argmax(tf.concat([fits, [True]], axis=0))]


def train_image(crop, size, key):
    """Turns a training crop into what the network sees.

    It is resized to `size` (bicubic); brightness, contrast and saturation change by factors from
    U(0.6, 1.4) and lighting by noise from N(0, 0.1^2), in random order; half of the images are
    mirrored.

    Args:
        crop: uint8 [height, width, 3], RGB.
        size: Height and width of the result in pixels.
        key: int64 [2].

    Returns:
        uint8 [size, size, 3].
    """
    keys = tf.unstack(tf.random.split(key, 2, alg="philox"))
    # As few random functions as possible: in a graph each is dozens of operations.
    draws = tf.random.stateless_uniform([8], keys[0], alg="philox")
    noise = LIGHTING_DEVIATION * tf.random.stateless_normal([3], keys[1], alg="philox")
    factors, order, mirror = _between(draws[:3], COLOR_FACTORS), tf.argsort(draws[3:7]), draws[7]
    image = to_uint8(adjust_colors(resize(crop, size, size), factors, noise, order))
    # `reverse`, because the slice [:, ::-1] takes as long as everything else together.
    return tf.cond(mirror < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def validation_image(image, size, interpolation="bicubic"):
    """Resizes an image's shorter edge to `256/224 * size` and crops the centre.

    An image more than 16 times as long as wide is cut to its middle first (our choice).

    Args:
        image: uint8 [height, width, 3].
        size: Height and width of the result in pixels.
        interpolation: `"bicubic"`, the pipeline's (`resize`); or `"bilinear"`, with a low-pass
            filter, as Pillow, torchvision and so RobustBench do it.

    Returns:
        uint8 [size, size, 3].
    """
    edge = round(size * _EDGE_PER_CROP)
    whole = tf.shape(image)[:2]
    kept = tf.minimum(whole, _LONGEST * tf.reduce_min(whole))
    image = tf.slice(image, [*tf.unstack((whole - kept) // 2), 0], [*tf.unstack(kept), 3])
    shape = tf.cast(kept, tf.float32)
    # Each way of resizing rounds as the programs that it is taken from.
    to_whole = tf.floor if interpolation == "bilinear" else tf.round
    height, width = tf.unstack(tf.cast(to_whole(shape * edge / tf.reduce_min(shape)), tf.int32))
    middle = tf.cast(tf.stack([height, width]) - size, tf.float32) / 2
    to_whole = tf.round if interpolation == "bilinear" else tf.floor
    top, left = tf.unstack(tf.cast(to_whole(middle), tf.int32))
    if interpolation == "bilinear":
        image = tf.image.resize(image, [height, width], "bilinear", antialias=True)
    else:
        image = resize(image, height, width)
    crop = image[top : top + size, left : left + size]
    return to_uint8(tf.ensure_shape(crop, [size, size, 3]))


def resize(image, height, width):
    """Bicubic interpolation without a low-pass filter, as the pipeline's; float32."""
    return tf.image.resize(image, [height, width], tf.image.ResizeMethod.BICUBIC)


def adjust_colors(image, factors, noise, order):
    """Changes brightness, contrast, saturation and lighting.

    With grey(x) the luminance of a pixel x and m the mean luminance of the image:

        brightness   factor * x
        contrast     factor * x + (1 - factor) * m
        saturation   factor * x + (1 - factor) * grey(x)
        lighting     x + EIGENVECTORS @ (noise * EIGENVALUES)

    All four steps are affine in a pixel's color, so they are composed first, and the image is
    read and written once.

    Args:
        image: float32 [height, width, 3].
        factors: float32 [3]: brightness, contrast, saturation.
        noise: float32 [3], one for each principal component.
        order: int32 [4], the order of the steps: 0 brightness, 1 contrast, 2 saturation,
            3 lighting.

    Returns:
        float32 of the same shape, which may leave [0, 255].
    """
    brightness, contrast, saturation = tf.unstack(factors)
    identity, grey = tf.eye(3), tf.constant(_GREY)
    to_grey = tf.tile(grey[None], [3, 1])
    matrices = tf.stack(
        [
            brightness * identity,
            contrast * identity,
            saturation * identity + (1 - saturation) * to_grey,
            identity,
        ]
    )
    lighting = tf.linalg.matvec(tf.constant(EIGENVECTORS), noise * tf.constant(EIGENVALUES))
    zero = tf.zeros(3)
    image_mean = tf.reduce_mean(image, axis=[0, 1])

    matrix, shift = identity, zero  # So far, a pixel x has become matrix @ x + shift.
    for step in range(4):
        # The mean of the image after the steps before this one.
        mean = tf.linalg.matvec(matrix, image_mean) + shift
        shifts = [zero, (1 - contrast) * tf.linalg.matvec(to_grey, mean), zero, lighting]
        chosen = matrices[order[step]]
        matrix = chosen @ matrix
        shift = tf.linalg.matvec(chosen, shift) + tf.stack(shifts)[order[step]]
    return tf.tensordot(image, matrix, [[2], [1]]) + shift


def to_uint8(image):
    """Clips to [0, 255], rounds and casts."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def _between(draw, bounds):
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _place(draw, room):
    """A whole number from 0 to `room`, all equally likely."""
    place = tf.cast(tf.floor(draw * tf.cast(room + 1, tf.float32)), tf.int32)
    return tf.minimum(place, room)  # The product can round up to room + 1.
