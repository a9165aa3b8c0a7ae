import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.data import miniature_imagenet
from tfadv.data import decoding, errors, imagenet_preprocessing, sampling


def _pil(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)


def _encoded(format, mode="RGB"):
    source = Image.open(io.BytesIO(miniature_imagenet.jpeg(label=3, seed=4)))
    file = io.BytesIO()
    source.convert(mode).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("contents", "tolerance"),
    [
        (_encoded("JPEG"), 1),
        (_encoded("JPEG", "L"), 1),
        (_encoded("JPEG", "CMYK"), 2),
        (_encoded("PNG"), 0),
        (_encoded("PNG", "L"), 0),
        (_encoded("BMP"), 0),
        (_encoded("GIF"), 0),
    ],
    ids=["rgb", "grey", "cmyk", "png", "grey png", "bmp", "gif"],
)
def test_whatever_imagenet_calls_jpeg_comes_out_as_rgb(contents, tolerance):
    image = decoding.decode(contents)
    expected = _pil(contents)
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


def _first_error(files):
    dataset = tf.data.Dataset.from_tensor_slices(files).map(
        lambda name, contents: decoding.named(tf.identity, (contents,), name)
    )
    seen = 0
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        for _ in dataset:
            seen += 1
    return seen, error.value


@pytest.mark.parametrize(
    "damaged",
    [b"", b"no image", _encoded("JPEG")[:700], _encoded("PNG")[:700]],
    ids=["empty", "text", "truncated jpeg", "truncated png"],
)
def test_a_file_that_cannot_be_decoded_is_named(damaged):
    names = ["good.JPEG", 'a dir/it\'s [odd] "été".JPEG', "never.JPEG"]
    seen, error = _first_error((names, [_encoded("JPEG"), damaged, _encoded("JPEG")]))
    assert seen == 1
    why = "" if damaged else " (nothing could be read)"
    assert errors.explain(error) == f"unreadable image file: {names[1]}{why}"


def test_other_errors_are_not_explained():
    assert errors.explain(ValueError("something else")) is None
    assert errors.explain(tf.errors.DataLossError(None, None, "checkpoint")) is None


def test_damaged_records_are_explained_in_one_line(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"0123456789")
    (tmp_path / "x.tfrecord").write_bytes((tmp_path / "x.tfrecord").read_bytes()[:-3])
    with pytest.raises(tf.errors.DataLossError) as error:
        list(tf.data.TFRecordDataset(path))
    line = errors.explain(error.value)
    assert "truncated record at 0" in line and "prepare it again" in line and "\n" not in line
