"""Every kind of image file, as `decoding`, `folders` and `unlabelled` say what becomes of it.

Colours are those that Pillow wrote, known beforehand.
"""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfadv import data
from tfadv.data import decoding, imagenet_preprocessing, unlabelled

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
    """A PNG that says it is of this size, and holds one row of pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (3 * width + 1)) if width < 10**6 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def patched(contents, place, *numbers):
    """Contents with some bytes replaced: sides that a header lies about."""
    return contents[:place] + bytes(numbers) + contents[place + len(numbers) :]


JPEG = encoded(plain("RGB", RED), "JPEG", quality=95)
WEBP = encoded(plain("RGB", RED), "WEBP", lossless=True)
LOSSY = encoded(plain("RGB", RED), "WEBP", quality=90)
ALPHA = encoded(plain("RGBA", (*RED, 128)), "WEBP", quality=90)
GIF = encoded(plain("RGB", RED), "GIF")
DEEP = Image.fromarray(np.full((4, 6), 0xC8FF, np.uint16))
SIZE = " (more than 89,478,485 pixels)"
# The file, the colour that it has everywhere, and by how much a lossy one may differ.
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
def test_images_that_are_read(kind):
    contents, colour, tolerance = READ[kind]
    image, readable, problem = read(contents)
    assert readable and problem.numpy() == b""
    assert image.shape == (4, 6, 3) and image.dtype == tf.uint8
    assert np.abs(image.numpy().astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize("kind", UNREAD)
def test_images_that_are_not_read(kind):
    contents, why = UNREAD[kind]
    image, readable, problem = read(contents)
    assert not readable and problem.numpy().decode() == why
    assert image.shape == (1, 1, 3)


def test_the_largest_image_is_read():
    """One line of it, since all would take 256 MB: what counts is the number of pixels."""
    assert not read(png(decoding.MAX_PIXELS + 1, 1))[1]
    assert read(png(900_000, 1))[0].shape == (1, 900_000, 3)


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_pixels_is_evaluated_by_its_middle(turned):
    pixels = np.zeros([1, 60_001, 3], np.uint8)
    pixels[:, 30_000 - 20 : 30_000 + 21] = RED
    image = imagenet_preprocessing.validation_image(
        np.swapaxes(pixels, 0, 1) if turned else pixels, 224
    )
    assert image.shape == (224, 224, 3) and (image.numpy() == RED).all()


def test_links_and_names_in_a_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.png").write_bytes(encoded(plain("RGB", RED), "PNG"))
    for split in ("train", "val"):
        (tmp_path / "data" / split / "ant").mkdir(parents=True)
        (tmp_path / "data" / split / "bee").symlink_to(outside)  # a class from elsewhere
    ants = tmp_path / "data" / "train" / "ant"
    (tmp_path / "data" / "val" / "ant" / "1.png").write_bytes(encoded(plain("RGB", RED), "PNG"))
    (ants / "link.PNG").symlink_to(outside / "1.png")
    (ants / "really a png.jpg").write_bytes(encoded(plain("RGB", RED), "PNG"))
    (ants / "webp.webp").write_bytes(WEBP)
    (ants / "deeper.png").mkdir()
    (ants / "deeper.png" / "2.png").write_bytes(b"")
    (ants / "circle").symlink_to(ants)
    (ants / "labels.csv").write_text("notes")
    (ants / ".hidden.png").write_text("")
    dataset = data.load("image_folder", str(tmp_path / "data"), image_size=32)
    assert (dataset.num_train, dataset.num_validation) == (4, 2)
    ((images, labels, _),) = dataset.validation_batches(2)
    assert (images.numpy() == RED).all() and sorted(labels.numpy()) == [0, 1]


def test_pipes_and_links_among_images_to_be_classified(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(plain("RGB", RED), "PNG"))
    os.mkfifo(tmp_path / "in" / "1")
    (tmp_path / "in" / "2").symlink_to("nowhere")
    (tmp_path / "in" / "3").symlink_to("/dev/zero")
    (tmp_path / "in" / "4").symlink_to(tmp_path / "a.png")
    (tmp_path / "in" / "5").symlink_to(tmp_path)  # a directory, which holds this one
    (tmp_path / "in" / "6").write_bytes(png(20_000, 20_000))
    files = unlabelled.list_files(tmp_path / "in")
    assert files == ["1", "2", "3", "4", "6"]
    ((images, readable),) = unlabelled.batches(tmp_path / "in", files, (4, 6, 3), 5)
    assert readable.tolist() == [False, False, False, True, False]
    assert (images[3] == RED).all()
