import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfadv import data
from tfadv.data import decoding, imagenet_preprocessing


def test_classes_and_sizes(folder):
    dataset = data.load("image_folder", str(folder), image_size=16)
    assert dataset.class_names == ["ant", "bee", "cat"]
    assert (dataset.num_classes, dataset.image_shape) == (3, (16, 16, 3))
    assert (dataset.num_train, dataset.num_validation) == (12, 9)
    images, labels = dataset.train_batches(4, 3).element_spec
    assert (images.shape, images.dtype) == ((4, 16, 16, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((4,), tf.int32)
    images, labels, indices = dataset.validation_batches(4).element_spec
    assert images.shape == (4, 16, 16, 3) and labels.shape == indices.shape == (4,)
    assert data.load("image_folder", str(folder)).image_shape == (224, 224, 3)


def test_an_epoch_shows_each_file_once_and_resumes(folder):
    dataset = data.load("image_folder", str(folder), image_size=16)
    streams = [list(dataset.train_batches(2, 3, rank, 2).take(6)) for rank in (0, 1)]
    labels = [batch[1] for stream in streams for batch in stream[:3]]
    assert np.bincount(np.concatenate(labels)).tolist() == [4, 4, 4]
    resumed = dataset.train_batches(2, 3, 1, 2, first_epoch=1, first_step=1).take(2)
    for batch, expected in zip(resumed, streams[1][4:], strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])


@pytest.mark.parametrize("size", [1, 5])
def test_validation_shows_each_file_once(folder, size):
    dataset = data.load("image_folder", str(folder), image_size=16)
    expected = {
        imagenet_preprocessing.validation_image(decoding.decode(path.read_bytes()), 16)
        .numpy()
        .tobytes(): label
        for label, name in enumerate(("ant", "bee", "cat"))
        for path in (folder / "val" / name).iterdir()
    }
    seen = {}
    for rank in range(size):
        batches = list(dataset.validation_batches(2, rank, size).as_numpy_iterator())
        assert len(batches) == data.validation_steps(9, 2, size)
        for images, labels, indices in batches:
            assert not images[indices < 0].any()
            for image, label, index in zip(images, labels, indices, strict=True):
                if index >= 0:
                    assert expected[image.tobytes()] == label
                    seen[index] = image.tobytes()
    assert sorted(seen) == list(range(9)) and set(seen.values()) == set(expected)


def test_a_limit_does_not_mean_one_class(folder):
    dataset = data.load("image_folder", str(folder), image_size=16)
    (batch,) = dataset.validation_batches(5, limit=5)
    assert batch[2].numpy().tolist() == [0, 1, 2, 3, 4]
    assert len(set(batch[1].numpy())) > 1


def test_unreadable_files_are_named_in_training_and_validation(folder):
    for name in ("train/bee/bee_2.JPEG", "val/cat/cat_1.JPEG"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    dataset = data.load("image_folder", str(folder), image_size=16)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(dataset.train_batches(4, 3).take(3))
    assert data.explain(error.value) == f"unreadable image file: {folder}/train/bee/bee_2.JPEG"
    assert not data.is_io_error(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(dataset.validation_batches(4))
    assert data.explain(error.value) == f"unreadable image file: {folder}/val/cat/cat_1.JPEG"


def test_a_file_that_went_away_is_named(folder):
    dataset = data.load("image_folder", str(folder), image_size=16)
    (folder / "train" / "ant" / "ant_0.JPEG").unlink()
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(dataset.train_batches(4, 3).take(3))
    path = folder / "train" / "ant" / "ant_0.JPEG"
    line = f"unreadable image file: {path} (reading it failed)"
    assert data.explain(error.value) == f"{line}: No such file or directory"
    assert data.is_io_error(error.value)
    path.write_bytes(b"")  # which can be read again, and so the system says nothing against it
    assert data.explain(error.value) == line and data.is_io_error(error.value)


def test_a_png_called_jpeg_and_other_files(folder):
    image = Image.fromarray(np.full((40, 50), 90, np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    (folder / "train" / "ant" / "png.JPEG").write_bytes(file.getvalue())
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    (folder / "train" / "ant" / ".hidden.jpg").write_text("not an image")
    dataset = data.load("image_folder", str(folder), image_size=16)
    assert dataset.num_train == 13
    images, _ = next(iter(dataset.train_batches(13, 1)))
    assert images.shape == (13, 16, 16, 3)


def test_folders_without_images_are_refused(folder):
    for path in folder.glob("val/*/*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"^data_dir must hold images \(.jpeg.*/val holds none$"):
        data.load("image_folder", str(folder))
