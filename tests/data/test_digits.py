import numpy as np
import pytest

from tfadv import data

sklearn_datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def _all(dataset):
    images, labels = next(iter(dataset.train_batches(dataset.num_train, 1)))
    validation = next(iter(dataset.validation_batches(dataset.num_validation)))
    return (images.numpy(), labels.numpy()), (validation[0].numpy(), validation[1].numpy())


def test_the_split_is_fixed_and_holds_every_digit_once(digits):
    assert (digits.num_train, digits.num_validation) == (1437, 360)
    assert (digits.num_classes, digits.image_shape) == (10, (8, 8, 1))
    source = sklearn_datasets.load_digits()
    # 0..16 becomes 0..255, rounded: 8 is 127.5, to even.
    scaled = np.round(source.images / 16 * 255).astype(np.uint8).reshape(1797, 64)
    rows = np.concatenate([images.reshape(len(images), 64) for images, _ in _all(digits)])
    labels = np.concatenate([labels for _, labels in _all(digits)])
    expected = sorted((tuple(row), label) for row, label in zip(scaled, source.target, strict=True))
    assert sorted((tuple(r), label) for r, label in zip(rows, labels, strict=True)) == expected


def test_the_split_is_stratified(digits):
    (images, train_labels), (_, labels) = _all(digits)
    assert images.min() == 0 and images.max() == 255
    ratio = np.bincount(labels) / (np.bincount(train_labels) + np.bincount(labels))
    assert np.abs(ratio - 0.2).max() < 0.01
    assert len(set(labels[:50])) == 10  # A limited evaluation meets all classes.
