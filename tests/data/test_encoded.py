"""Unreadable training images: named, counted, and replaced up to a limit."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv import data
from tfadv.data import encoded


def _replaced(bad, size, limit, steps=3, first_step=0):
    """Replaces the bad ones of twelve numbered images; returns the batches and the counts."""
    numbers = np.arange(1, 13, dtype=np.uint8)
    names = np.array([f"{n}.jpg" if n in bad else "" for n in numbers], object)
    images = np.where(np.isin(numbers, bad), 0, numbers)
    batches = tf.data.Dataset.from_tensor_slices((images, numbers, names)).batch(size)
    counts = {}

    def report(epoch, count, names):
        counts[int(epoch)] = int(count)
        return count

    batches = encoded.replace_bad(batches, limit, steps, 5, first_step, report)
    return [[x.tolist() for x in batch] for batch in batches.as_numpy_iterator()], counts


def test_the_next_good_image_of_the_batch_replaces_a_bad_one():
    batches, counts = _replaced(bad=[2, 3, 6, 8, 12], size=4, limit=9)
    images = [[1, 4, 4, 4], [5, 7, 7, 5], [9, 10, 11, 9]]
    # With its own label.
    assert batches == [[row, row] for row in images]
    assert counts == {5: 5}


def test_the_count_starts_again_in_each_epoch():
    assert _replaced([1, 6, 11], size=2, limit=1, steps=2)[1] == {5: 1, 6: 1, 7: 1}
    # Resumed in the middle of an epoch, with its second batch.
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


def test_a_folder_with_an_unreadable_image_trains_and_resumes_with_the_same_bits(folder, capfd):
    path = folder / "train" / "bee" / "bee_2.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    dataset = data.load("image_folder", str(folder), image_size=16)
    whole = list(dataset.train_batches(4, 3, max_bad_images=1).take(6))
    # Batches of the next epoch may have been read ahead.
    assert [dataset.passed_over[epoch] for epoch in (0, 1)] == [1, 1]
    assert (
        f"passed over, number 1 in epoch 2: unreadable image file: {path}\n"
        in capfd.readouterr().err
    )
    # In two batches an image replaces a bad one, so it is there twice; no image is black.
    assert sorted(len(np.unique(batch[0], axis=0)) for batch in whole) == [3, 3, 4, 4, 4, 4]
    assert min(batch[0].numpy().mean(axis=(1, 2, 3)).min() for batch in whole) > 20
    resumed = dataset.train_batches(4, 3, first_epoch=1, first_step=1, max_bad_images=1).take(2)
    for batch, expected in zip(resumed, whole[4:], strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])
