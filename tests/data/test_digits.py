import numpy as np
import pytest

from tfadv import data

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_the_split_is_fixed_stratified_and_holds_every_digit_once():
    digits = data.load("digits")
    assert (digits.num_train, digits.num_validation) == (1437, 360)
    assert (digits.num_classes, digits.image_shape) == (10, (8, 8, 1))
    images, train_labels = next(iter(digits.train_batches(1437, 1)))
    validation, labels, _ = next(iter(digits.validation_batches(360)))
    source = sklearn_datasets.load_digits()
    # 0..16 becomes 0..255, rounded: 8 is 127.5, to even.
    scaled = np.round(source.images / 16 * 255).astype(np.uint8).reshape(1797, 64)
    rows = np.concatenate([images, validation]).reshape(1797, 64)
    pairs = zip(rows, np.concatenate([train_labels, labels]), strict=True)
    expected = zip(scaled, source.target, strict=True)
    assert sorted((tuple(r), label) for r, label in pairs) == sorted(
        (tuple(r), label) for r, label in expected
    )
    ratio = np.bincount(labels) / np.bincount(source.target)
    assert np.abs(ratio - 0.2).max() < 0.01
    assert len(set(labels.numpy()[:50])) == 10  # A limited evaluation meets all classes.
