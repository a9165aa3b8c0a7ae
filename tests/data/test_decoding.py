"""Every kind of image file becomes what the table in `decoding` says.

Colours are those that Pillow wrote, known beforehand.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.data import miniature_imagenet
from tfadv import data
from tfadv.data import decoding, imagenet_preprocessing, sampling

RED, BLUE = (200, 30, 40), (20, 60, 210)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def plain(mode, colour, size=(6, 4)):
    return Image.new(mode, size, colour)


def animated(format, **options):
    frames = [plain("RGB", RED), plain("RGB", BLUE)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


def palette(format):
    image = plain("P", 1)
    image.putpalette([*BLUE, *RED])
    return encoded(image, format)


def png(width, height):
    """A PNG whose header states this size, and which holds one row of pixels."""

    def chunk(kind, content):
        content = kind + content
        return (
            struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (3 * width + 1)) if width < 10**6 else b""
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def patched(contents, place, *numbers):
    """Contents with some bytes replaced, so that the header lies about the sides."""
    return contents[:place] + bytes(numbers) + contents[place + len(numbers) :]


JPEG = encoded(plain("RGB", RED), "JPEG", quality=95)
WEBP = encoded(plain("RGB", RED), "WEBP", lossless=True)
LOSSY = encoded(plain("RGB", RED), "WEBP", quality=90)
ALPHA = encoded(plain("RGBA", (*RED, 128)), "WEBP", quality=90)
GIF = encoded(plain("RGB", RED), "GIF")
DEEP = Image.fromarray(np.full((4, 6), 0xC8FF, np.uint16))
SIZE = " (more than 89,478,485 pixels)"
# The file, its colour everywhere, and by how much a lossy one may differ.
READ = {
    "JPEG": (JPEG, RED, 3),
    "grey JPEG": (encoded(plain("L", 90), "JPEG"), (90, 90, 90), 1),
    "CMYK JPEG": (encoded(plain("CMYK", (55, 225, 215, 0)), "JPEG", quality=95), RED, 4),
    "PNG": (encoded(plain("RGB", RED), "PNG"), RED, 0),
    "grey PNG": (encoded(plain("L", 90), "PNG"), (90, 90, 90), 0),
    "one bit": (encoded(plain("1", 1), "PNG"), (255, 255, 255), 0),
    "palette": (palette("PNG"), RED, 0),
    "16 bits": (encoded(DEEP, "PNG"), (0xC8, 0xC8, 0xC8), 0),
    "alpha": (encoded(plain("RGBA", (*RED, 0)), "PNG"), RED, 0),
    "grey with alpha": (encoded(plain("LA", (90, 7)), "PNG"), (90, 90, 90), 0),
    "animated PNG": (animated("PNG"), RED, 0),
    "GIF": (GIF, RED, 0),
    "animated GIF": (animated("GIF"), RED, 0),
    "BMP": (encoded(plain("RGB", RED), "BMP"), RED, 0),
    "grey BMP": (encoded(plain("L", 90), "BMP"), (90, 90, 90), 0),
    "WebP": (WEBP, RED, 0),
    "lossy WebP": (LOSSY, RED, 6),
}
UNREAD = {
    "zero bytes": (b"", " (nothing could be read)"),
    "text": (b"a thesis", ""),
    "half a JPEG": (JPEG[: len(JPEG) // 2], ""),
    "half a PNG": (encoded(plain("RGB", RED), "PNG")[:50], ""),
    "TIFF": (encoded(plain("RGB", RED), "TIFF"), ""),
    "animated WebP": (animated("WEBP", lossless=True), ""),
    "WebP with alpha": (encoded(plain("RGBA", (*RED, 99)), "WEBP", lossless=True), ""),
    "lossy WebP with alpha": (ALPHA, ""),
    "BMP of a palette": (palette("BMP"), " (a BMP with a palette)"),
    "BMP of one bit": (encoded(plain("1", 1), "BMP"), ""),
    "huge PNG": (png(20_000, 20_000), SIZE),
    "PNG of the largest sides": (png(2**32 - 1, 2**32 - 1), SIZE),
    "huge JPEG": (patched(JPEG, JPEG.index(b"\xff\xc0") + 5, 255, 220, 255, 220), SIZE),
    "huge GIF": (patched(GIF, 6, 255, 255, 255, 255), SIZE),
    "huge WebP": (patched(WEBP, 21, 255, 255, 255, 255), SIZE),
    "huge lossy WebP": (patched(LOSSY, 26, 255, 63, 255, 63), SIZE),
    "huge WebP with alpha": (patched(ALPHA, 24, 255, 255, 255, 255, 255, 255), SIZE),
}


@tf.function
def read(contents):
    return decoding.attempt(tf.identity, (contents,))


@pytest.mark.parametrize("kind", READ)
def test_readable_images(kind):
    contents, colour, tolerance = READ[kind]
    image, readable, problem = read(contents)
    assert readable and problem.numpy() == b""
    assert image.shape == (4, 6, 3) and image.dtype == tf.uint8
    assert np.abs(image.numpy().astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize("kind", UNREAD)
def test_unreadable_images(kind):
    contents, why = UNREAD[kind]
    image, readable, problem = read(contents)
    assert not readable and problem.numpy().decode() == why
    assert image.shape == (1, 1, 3)


def test_the_largest_image_is_read():
    """The image has a single row, since a square one would take 256 MB; only its pixels count."""
    assert not read(png(decoding.MAX_PIXELS + 1, 1))[1]
    assert read(png(900_000, 1))[0].shape == (1, 900_000, 3)


def photograph(format, mode="RGB"):
    source = Image.open(io.BytesIO(miniature_imagenet.jpeg(label=3, seed=4)))
    return encoded(source.convert(mode), format)


@pytest.mark.parametrize(
    ("contents", "tolerance"),
    [
        (photograph("JPEG"), 1),
        (photograph("JPEG", "L"), 1),
        (photograph("JPEG", "CMYK"), 2),
        (photograph("PNG"), 0),
    ],
    ids=["rgb", "grey", "cmyk", "png"],
)
def test_photographs_and_their_crops_equal_those_of_pillow(contents, tolerance):
    image = decoding.decode(contents)
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)
    assert image.dtype == tf.uint8
    assert np.abs(image.numpy() - expected).max() <= tolerance
    key = sampling.key(0, 0, 0, 1)
    top, left, height, width = imagenet_preprocessing.random_crop_window(expected.shape, key)
    crop = decoding.decode_random_crop(contents, key)
    # A crop decoded alone equals the crop of the whole, but for colours at its edges, which
    # libjpeg interpolates from neighbours that it has not decoded.
    whole = image.numpy()[top : top + height, left : left + width]
    difference = crop.numpy().astype(int) - whole
    assert np.abs(difference).max() <= 4
    assert np.abs(difference[2:-2, 2:-2]).max() == 0


@pytest.mark.parametrize(
    "damaged",
    [b"", b"no image", photograph("JPEG")[:700]],
    ids=["empty", "text", "truncated"],
)
def test_a_file_that_cannot_be_decoded_is_named(damaged):
    names = ["good.JPEG", 'a dir/it\'s [odd] "été".JPEG', "never.JPEG"]
    images = tf.data.Dataset.from_tensor_slices((names, [JPEG, damaged, JPEG])).map(
        lambda name, contents: decoding.named(tf.identity, (contents,), name)
    )
    images = iter(images)
    assert next(images).shape == (4, 6, 3)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(images)
    why = "" if damaged else " (nothing could be read)"
    assert data.explain(error.value) == f"unreadable image file: {names[1]}{why}"


def test_other_errors_are_not_explained():
    assert data.explain(ValueError("something else")) is None
    assert data.explain(tf.errors.DataLossError(None, None, "checkpoint")) is None


def test_damaged_records_are_explained_in_one_line(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"0123456789")
    (tmp_path / "x.tfrecord").write_bytes((tmp_path / "x.tfrecord").read_bytes()[:-3])
    with pytest.raises(tf.errors.DataLossError) as error:
        list(tf.data.TFRecordDataset(path))
    line = data.explain(error.value)
    assert "truncated record at 0" in line and "prepare it again" in line and "\n" not in line
