"""Broken images and records of the training data: named, counted, and passed over up to a limit."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.data import miniature_imagenet
from tfadv import data
from tfadv.data import broken, records


def _batches(bad, size):
    """Batches of numbered images, of which some are broken and zero."""
    numbers = np.arange(1, 13, dtype=np.uint8)
    names = np.array([f"{n}.jpg" if n in bad else "" for n in numbers], object)
    images = np.where(np.isin(numbers, bad), 0, numbers)
    return tf.data.Dataset.from_tensor_slices((images, numbers, names)).batch(size)


def _replaced(bad, size, limit, steps=3, first_step=0):
    report = broken.Report()
    batches = broken.replace(_batches(bad, size), limit, steps, 5, first_step, report)
    return [[x.tolist() for x in batch] for batch in batches.as_numpy_iterator()], report.counts


def test_the_next_whole_image_of_the_batch_stands_for_a_broken_one(capfd):
    found, counts = _replaced(bad=[2, 3, 6, 8, 12], size=4, limit=9)
    images = [[1, 4, 4, 4], [5, 7, 7, 5], [9, 10, 11, 9]]
    # With its own label.
    assert found == [[row, row] for row in images]
    assert counts == {5: 5}
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "passed over" in line] == [
        f"passed over, number {place} in epoch 6: unreadable image file: {n}.jpg"
        for place, n in enumerate((2, 3, 6, 8, 12), 1)
    ]


def test_the_count_begins_anew_in_each_epoch():
    assert _replaced([1, 6, 11], size=2, limit=1, steps=2)[1] == {5: 1, 6: 1, 7: 1}
    # Begun in the middle of an epoch, whose first batch was here.
    assert _replaced([1, 3, 6], size=2, limit=2, steps=2, first_step=1)[1] == {5: 1, 6: 2}


@pytest.mark.parametrize(
    "bad, limit, line",
    [
        ([6, 7], 0, "6.jpg"),
        ([1, 6, 7, 9], 2, "7.jpg (more than max_bad_images=2 in an epoch)"),
        ([5, 6, 7, 8], 9, "5.jpg and all others of its batch"),
    ],
)
def test_one_more_than_the_limit_is_an_error(bad, limit, line):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        _replaced(bad, size=4, limit=limit)
    assert data.explain(error.value) == f"unreadable image file: {line}"


def test_a_folder_with_a_broken_image_trains_and_resumes_with_the_same_bits(folder, capfd):
    path = folder / "train" / "bee" / "bee_2.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    dataset = data.load("image_folder", str(folder), image_size=16)
    whole = list(dataset.train_batches(4, 3, max_bad_images=1).take(6))
    # What comes next is read ahead.
    assert [dataset.passed_over.counts[epoch] for epoch in (0, 1)] == [1, 1]
    assert (
        f"passed over, number 1 in epoch 2: unreadable image file: {path}\n"
        in capfd.readouterr().err
    )
    # Of four images three are different, and none is black.
    assert sorted(len(np.unique(batch[0], axis=0)) for batch in whole) == [3, 3, 4, 4, 4, 4]
    assert min(batch[0].numpy().mean(axis=(1, 2, 3)).min() for batch in whole) > 20
    resumed = dataset.train_batches(4, 3, first_epoch=1, first_step=1, max_bad_images=1).take(2)
    for batch, expected in zip(resumed, whole[4:], strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])


@pytest.fixture
def damaged(tmp_path):
    """Ten records in a file, and the places of the bytes that hold their lengths."""
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(10):
            writer.write(bytes([number]) * 20)
    return path


def _read(path, skip, take):
    found = records.read(str(path), tf.constant(skip, tf.int64), tf.constant(take, tf.int64))
    found = list(found.as_numpy_iterator())
    for place, (record, name) in enumerate(found, skip):
        assert name.decode() == f"record {place} of {path}"
        assert record in (b"", bytes([place]) * 20)
    return [place for place, (record, _) in enumerate(found, skip) if record]


@pytest.mark.parametrize(
    "byte, skip, take, whole",
    [
        (None, 2, 5, [2, 3, 4, 5, 6]),
        (3 * 36 + 15, 0, 10, [0, 1, 2, 4, 5, 6, 7, 8, 9]),  # what record 3 holds
        (3 * 36 + 15, 2, 5, [2, 4, 5, 6]),
        (3 * 36 + 15, 4, 3, [4, 5, 6]),
        (3 * 36, 0, 6, [0, 1, 2]),  # its length
        ("short", 5, 5, [5, 6, 7, 8]),
        ("gone", 5, 2, []),
    ],
)
def test_a_damaged_record_costs_no_other(damaged, byte, skip, take, whole):
    contents = bytearray(damaged.read_bytes())
    if byte == "gone":
        damaged.unlink()
    elif byte == "short":
        damaged.write_bytes(contents[:-3])
    elif byte is not None:
        contents[byte] ^= 1
        damaged.write_bytes(contents)
    assert _read(damaged, skip, take) == whole


def test_imagenet_with_a_damaged_record_and_a_damaged_image(tmp_path, monkeypatch, capfd):
    tfds.disable_progress_bar()
    miniature_imagenet.cut_short(monkeypatch, 3)
    sizes = {"num_train_per_class": 4, "num_classes": 2, "num_validation": 2}
    miniature_imagenet.prepare(tmp_path, **sizes)
    for split in ("train", "validation"):
        (file,) = tmp_path.glob(f"imagenet2012/*/imagenet2012-{split}.tfrecord-*")
        contents = bytearray(file.read_bytes())
        contents[200] ^= 1  # within the first record
        file.write_bytes(contents)
    dataset = data.load("imagenet2012", str(tmp_path), image_size=16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(dataset.train_batches(8, 1).take(1))
    images, labels = next(iter(dataset.train_batches(8, 1, max_bad_images=2)))
    assert images.shape == (8, 16, 16, 3) and labels.shape == (8,)
    assert len(np.unique(images, axis=0)) == 6
    error = capfd.readouterr().err
    assert "unreadable image file: n01440764_3.JPEG\n" in error
    assert "unreadable image file: record 0 of /" in error
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(dataset.validation_batches(2))
    line = data.explain(raised.value)
    assert line.startswith("unreadable image file: record 0 of /") and "validation" in line
    assert not data.is_io_error(raised.value)
    # Records of a file that is gone, as of one on a disk that fails, are not damaged.
    file.unlink()
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(dataset.validation_batches(2))
    assert data.is_io_error(raised.value)
    assert data.explain(raised.value).endswith(
        f"{file} (nothing could be read): No such file or directory"
    )
