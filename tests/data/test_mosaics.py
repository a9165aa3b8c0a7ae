import numpy as np
import pytest

from tests.data.test_tfds_arrays import _write
from tfadv import data
from tfadv.data import mosaics


def test_a_mosaic_holds_two_images_of_each_of_its_classes_on_the_diagonals():
    # The value of an image's pixels is its number, so that a tile says which image it shows.
    labels = np.arange(60) % 3
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 4, 6, 1))
    made, classes = mosaics.mosaics(images, labels, 3)
    assert made.shape == (60, 4, 6, 1) and made.dtype == np.uint8
    corners = made[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    np.testing.assert_array_equal(made[:, :2, :3, 0], corners[:, :1, None] + np.zeros((1, 2, 3)))
    np.testing.assert_array_equal(corners[:, 0], np.arange(60))
    by_corner = labels[corners]
    np.testing.assert_array_equal(by_corner[:, 0], by_corner[:, 3])
    np.testing.assert_array_equal(by_corner[:, 1], by_corner[:, 2])
    np.testing.assert_array_equal(classes, 3 * by_corner[:, 0] + by_corner[:, 1])
    assert set(classes) == set(range(9))
    again, _ = mosaics.mosaics(images, labels, 3)
    np.testing.assert_array_equal(made, again)


def test_a_tile_is_the_image_at_half_its_size():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 2), dtype=np.uint8)
    made, _ = mosaics.mosaics(images, np.zeros(5, int), 1)
    for image, mosaic in zip(images.astype(int), made, strict=True):
        for row in range(2):
            for column in range(2):
                block = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                rounded = np.floor(block.mean(axis=(0, 1)) + 0.5)
                np.testing.assert_array_equal(mosaic[row, column], rounded)


@pytest.fixture
def data_dir(tmp_path):
    _write(tmp_path, "fashion_mnist", "3.0.1", (28, 28, 1), 10)
    return str(tmp_path)


def test_mosaics_are_made_of_the_images_of_the_split(data_dir):
    dataset = data.load("fashion_mosaics", data_dir)
    assert (dataset.num_classes, dataset.num_train, dataset.num_validation) == (100, 40, 20)
    assert dataset.class_names[12] == "1 and 2"
    images, labels, _ = next(iter(dataset.validation_batches(20)))
    originals, classes, _ = next(iter(data.load("fashion_mnist", data_dir).validation_batches(20)))
    expected = mosaics.mosaics(originals.numpy(), classes.numpy(), 10)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
