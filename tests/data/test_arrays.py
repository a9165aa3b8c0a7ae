import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfadv import data


def _dataset(num_train=24, num_validation=13, augment=None):
    """Images whose only pixel is the example's number, labels that are its last digit."""

    def split(count):
        numbers = np.arange(count)
        return numbers.astype(np.uint8).reshape(count, 1, 1, 1), numbers % 10

    return data.ArrayDataset("numbers", split(num_train), split(num_validation), 10, augment)


def _take(batches, count):
    return [(images.numpy(), labels.numpy()) for images, labels in batches.take(count)]


def _numbers(batches, count):
    return [images.ravel().tolist() for images, _ in _take(batches, count)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_epoch_shows_each_example_once_over_all_workers(size):
    dataset = _dataset()
    for epoch in (0, 1):
        seen = []
        for rank in range(size):
            batches = dataset.train_batches(4, 6 // size, rank, size, first_epoch=epoch)
            seen += itertools.chain(*_numbers(batches, 6 // size))
        assert sorted(seen) == list(range(24))


def test_the_epochs_order_is_the_same_for_any_number_of_workers():
    dataset = _dataset()
    (alone,) = _numbers(dataset.train_batches(24, 1, seed=5), 1)
    for size in (2, 3):
        for rank in range(size):
            (mine,) = _numbers(dataset.train_batches(24 // size, 1, rank, size, seed=5), 1)
            assert mine == alone[rank::size]


def test_epochs_and_seeds_have_orders_of_their_own():
    dataset = _dataset()
    orders = _numbers(dataset.train_batches(24, 1, seed=1), 3)
    orders += _numbers(dataset.train_batches(24, 1, seed=2), 1)
    assert len({tuple(order) for order in orders}) == 4


def test_an_epoch_longer_than_the_data_starts_its_order_again():
    (numbers,) = _numbers(_dataset(num_train=5).train_batches(12, 1), 1)
    assert sorted(numbers[:5]) == list(range(5))
    assert numbers == (numbers[:5] * 3)[:12]


@pytest.mark.parametrize(("first_epoch", "first_step"), [(0, 0), (2, 0), (1, 2), (0, 6)])
def test_a_stream_resumes_with_the_same_bits(first_epoch, first_step):
    def augment(images, key):  # Random, so that keys count as well.
        noise = tf.random.stateless_uniform(tf.shape(images), key, 0, 100, tf.int32, "philox")
        return images + tf.cast(noise, tf.uint8)

    dataset = _dataset(augment=augment)
    whole = _take(dataset.train_batches(4, 6, seed=3), 18)
    rest = _take(
        dataset.train_batches(4, 6, seed=3, first_epoch=first_epoch, first_step=first_step), 3
    )
    start = 6 * first_epoch + first_step
    for (images, labels), (expected_images, expected_labels) in zip(
        rest, whole[start : start + 3], strict=True
    ):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


def test_augmentation_differs_between_batches_workers_and_epochs_and_spares_validation():
    def augment(images, key):
        draw = tf.random.stateless_uniform([], key, 0, 251, tf.int32, "philox")
        return tf.zeros_like(images) + tf.cast(draw, tf.uint8)

    dataset = _dataset(augment=augment)
    values = {
        images.ravel()[0]
        for rank in (0, 1)
        for images, _ in _take(dataset.train_batches(4, 3, rank, 2), 6)
    }
    assert len(values) > 9  # Of 12, all but chance collisions.
    images, _, _ = next(iter(dataset.validation_batches(13)))
    assert images.numpy().ravel().tolist() == list(range(13))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [None, 4])
def test_validation_shows_each_example_once_over_all_workers(size, limit):
    dataset = _dataset()
    expected = list(range(limit or 13))
    steps = data.validation_steps(len(expected), 2, size)
    seen = []
    for rank in range(size):
        batches = dataset.validation_batches(2, rank, size, limit)
        assert int(batches.cardinality()) == steps
        batches = list(batches.as_numpy_iterator())
        assert len(batches) == steps
        for images, labels, indices in batches:
            real = indices >= 0
            np.testing.assert_array_equal(images.ravel()[real], indices[real])
            np.testing.assert_array_equal(labels[real], indices[real] % 10)
            assert not images[~real].any() and not labels[~real].any()
            assert (indices[~real] == -1).all()
            seen += indices[real].tolist()
    assert sorted(seen) == expected


def test_shapes_and_types_are_static():
    dataset = _dataset()
    images, labels = dataset.train_batches(4, 6).element_spec
    assert (images.shape, images.dtype) == ((4, 1, 1, 1), tf.uint8)
    assert (labels.shape, labels.dtype) == ((4,), tf.int32)
    images, labels, indices = dataset.validation_batches(4).element_spec
    assert (images.shape, images.dtype) == ((4, 1, 1, 1), tf.uint8)
    assert (labels.shape, labels.dtype) == ((4,), tf.int32)
    assert (indices.shape, indices.dtype) == ((4,), tf.int64)
    assert dataset.train_batches(4, 6).cardinality() == tf.data.INFINITE_CARDINALITY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; received 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1; received 0"),
        ({"first_step": 2}, "first_step must be from 0 to steps_per_epoch = 1; received 2"),
        ({"first_epoch": -1}, "first_epoch must be an integer of at least 0; received -1"),
        ({"rank": 2, "size": 2}, "rank must be from 0 to size - 1 = 1; received 2"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        _dataset().train_batches(**{"batch_size": 1, "steps_per_epoch": 1, **arguments})


def test_arrays_that_do_not_fit_are_refused():
    good = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, int)
    for bad, message in (
        ((good[0].astype(float), good[1]), "images must be uint8"),
        ((good[0], np.zeros(2, int)), "labels must be one for each image"),
        ((good[0], np.array([0, 1, 7])), "labels must be from 0 to num_classes - 1 = 1"),
        ((np.zeros((3, 2, 3, 1), np.uint8), good[1]), "must have one shape"),
    ):
        with pytest.raises(ValueError, match=message):
            data.ArrayDataset("bad", good, bad, 2)
