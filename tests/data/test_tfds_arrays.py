import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv import data
from tfadv.data import sampling, tfds_arrays
from tfadv.tables import datasets


def _write(data_dir, name, version, shape, num_classes):
    """Real files of tensorflow-datasets, of 40 and 20 images whose first pixel is their number."""
    tfds.disable_progress_bar()

    def split(count):
        images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(count)
        labels = np.arange(count) % num_classes
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        data_dir=data_dir,
        split_datasets={"train": split(40), "test": split(20)},
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(num_classes=num_classes),
            }
        ),
    )


@pytest.mark.parametrize(
    ("name", "version", "shape", "num_classes"),
    [("fashion_mnist", "3.0.1", (28, 28, 1), 10), ("cifar100", "3.0.2", (32, 32, 3), 100)],
)
def test_prepared_files_are_read_whole(tmp_path, capfd, name, version, shape, num_classes):
    _write(tmp_path, name, version, shape, num_classes)
    capfd.readouterr()
    dataset = data.load(name, str(tmp_path))
    assert capfd.readouterr().out == ""  # tensorflow-datasets prints nothing and downloads nothing.
    assert (dataset.num_classes, dataset.image_shape) == (num_classes, shape)
    assert (dataset.num_train, dataset.num_validation) == (40, 20)
    assert len(dataset.class_names) == num_classes
    images, labels, _ = next(iter(dataset.validation_batches(20)))
    numbers = images.numpy()[:, 0, 0, 0]
    assert sorted(numbers) == list(range(20))
    np.testing.assert_array_equal(labels, numbers % num_classes)
    images, labels = next(iter(dataset.train_batches(40, 1)))
    if name == "cifar100":  # Shifted and mirrored.
        assert sorted(labels.numpy()) == list(range(40))
        assert (images.numpy()[:, 0].max(axis=(1, 2)) == 0).any()
    else:
        np.testing.assert_array_equal(labels, images.numpy()[:, 0, 0, 0] % num_classes)


def test_every_shifted_and_mirrored_image_is_one_of_the_possible_crops():
    generator = np.random.default_rng(0)
    image = generator.integers(1, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 6, left : left + 5]
            crops[crop.tobytes()] = top, left, False
            crops[crop[:, ::-1].tobytes()] = top, left, True
    batch = tf.constant(np.tile(image[None], (2000, 1, 1, 1)))
    results, same, other = (
        tfds_arrays.shift_and_mirror(batch, sampling.key(0, 0, purpose)).numpy()
        for purpose in (0, 0, 1)
    )
    tops, lefts, flips = zip(*(crops[result.tobytes()] for result in results), strict=True)
    # 2000 draws: 222 of each shift (deviation 14), half of them mirrored (deviation 22).
    assert np.abs(np.bincount(tops, minlength=9) - 222).max() < 60
    assert np.abs(np.bincount(lefts, minlength=9) - 222).max() < 60
    assert abs(sum(flips) - 1000) < 100
    assert abs(np.corrcoef(tops, flips)[0, 1]) < 0.1
    np.testing.assert_array_equal(results, same)
    assert (results != other).any()


def test_a_development_set_validates_on_training_images(tmp_path, monkeypatch):
    _write(tmp_path, "fashion_mnist", "3.0.1", (28, 28, 1), 10)
    entry = datasets.ENTRIES["fashion_mnist_dev"]
    splits = {"train_split": "train[:30]", "validation_split": "train[30:]"}  # of 40 images
    monkeypatch.setitem(datasets.ENTRIES, entry.name, dataclasses.replace(entry, **splits))
    dataset = data.load(entry.name, str(tmp_path))
    assert (dataset.num_train, dataset.num_validation) == (30, 10)
    train, _ = next(iter(dataset.train_batches(30, 1)))
    validation, _, _ = next(iter(dataset.validation_batches(10)))
    numbers = [*train.numpy()[:, 0, 0, 0], *validation.numpy()[:, 0, 0, 0]]
    assert sorted(numbers) == list(range(40))  # each image once, and no test image


def test_a_development_set_is_prepared_under_the_name_of_its_source(tmp_path):
    with pytest.raises(ValueError, match="^fashion_mnist is not .* prepare fashion_mnist --data"):
        data.load("fashion_mnist_dev", str(tmp_path))
