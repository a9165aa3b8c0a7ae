import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfadv import data
from tfadv.data import decoding, image_folder, imagenet_preprocessing

RED = 200, 30, 40
_file = io.BytesIO()
Image.new("RGB", (6, 4), RED).save(_file, "PNG")
PNG = _file.getvalue()


def test_classes_and_sizes(folder):
    dataset = data.load("image_folder", str(folder), image_size=16)
    assert dataset.class_names == ["ant", "bee", "cat"]
    assert (dataset.num_classes, dataset.image_shape) == (3, (16, 16, 3))
    assert (dataset.num_train, dataset.num_validation) == (12, 9)
    assert dataset.train_batches(4, 3).element_spec[0].shape == (4, 16, 16, 3)
    assert dataset.validation_batches(4).element_spec[0].shape == (4, 16, 16, 3)
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


def test_links_and_names_in_a_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.png").write_bytes(PNG)
    for split in ("train", "val"):
        (tmp_path / "data" / split / "ant").mkdir(parents=True)
        (tmp_path / "data" / split / "bee").symlink_to(outside)  # a class from elsewhere
    ants = tmp_path / "data" / "train" / "ant"
    (tmp_path / "data" / "val" / "ant" / "1.png").write_bytes(PNG)
    (ants / "link.PNG").symlink_to(outside / "1.png")
    (ants / "a png.JPEG").write_bytes(PNG)
    (ants / "deeper.png").mkdir()
    (ants / "deeper.png" / "2.png").write_bytes(b"")
    (ants / "circle").symlink_to(ants)
    (ants / "labels.csv").write_text("notes")
    (ants / ".hidden.png").write_text("")
    dataset = data.load("image_folder", str(tmp_path / "data"), image_size=32)
    assert (dataset.num_train, dataset.num_validation) == (3, 2)
    ((images, labels, _),) = dataset.validation_batches(2)
    assert (images.numpy() == RED).all() and sorted(labels.numpy()) == [0, 1]


def test_pipes_and_links_among_images_to_be_classified(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "in" / "1")
    (tmp_path / "in" / "2").symlink_to("nowhere")
    (tmp_path / "in" / "3").symlink_to("/dev/zero")
    (tmp_path / "in" / "4").symlink_to(tmp_path / "a.png")
    (tmp_path / "in" / "5").symlink_to(tmp_path)  # a directory, which holds this one
    files = image_folder.list_files(tmp_path / "in")
    assert files == ["1", "2", "3", "4"]
    ((images, readable),) = image_folder.unlabelled_batches(tmp_path / "in", files, (4, 6, 3), 4)
    assert readable.tolist() == [False, False, False, True]
    assert (images[3] == RED).all()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Seven files, two of them no images, and four more that are ignored."""
    root = tmp_path_factory.mktemp("images")
    (root / "b" / "c").mkdir(parents=True)
    (root / ".cache").mkdir()
    (root / "b" / "__MACOSX").mkdir()
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(values).save(root / "b" / "rgb.png")
    Image.fromarray(values).save(root / "b" / "c" / "no extension", "PNG")
    Image.fromarray(values[..., 0]).save(root / "grey.png")
    Image.fromarray(np.full([9, 5, 3], 77, np.uint8)).save(root / "wide, even.bmp")
    Image.fromarray(np.full([4, 4, 3], 200, np.uint8)).save(os.fsencode(root) + b"/\xff.png", "PNG")
    (root / "broken.jpeg").write_bytes(b"no image")
    (root / "empty.png").write_bytes(b"")
    (root / ".hidden.png").write_bytes(b"no image")
    (root / ".cache" / "x.png").write_bytes(b"no image")
    (root / "b" / "__MACOSX" / "x.png").write_bytes(b"no image")
    (root / "link").symlink_to(root / "b")
    return root


def test_all_files_of_a_directory_in_order(directory):
    assert image_folder.list_files(directory) == [
        "b/c/no extension",
        "b/rgb.png",
        "broken.jpeg",
        "empty.png",
        "grey.png",
        "wide, even.bmp",
        "\udcff.png",
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_pixels_and_unreadable_ones_are_marked(directory, channels):
    files = image_folder.list_files(directory)
    batches = list(image_folder.unlabelled_batches(directory, files, (4, 4, channels), 4))
    assert [images.shape for images, _ in batches] == [(4, 4, 4, channels)] * 2
    images, readable = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert readable.tolist() == [True, True, False, False, True, True, True, False]
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    grey = np.repeat(values[..., :1], channels, axis=-1)
    luminance = np.round(values @ np.array([0.2989, 0.587, 0.114]))[..., None]
    expected = values if channels == 3 else luminance
    np.testing.assert_allclose(images[0].astype(int), expected, atol=1)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[4], grey)
    assert np.unique(images[5]).tolist() == [77]  # of another size and shape
    assert np.unique(images[6]).tolist() == [200]
    assert not images[~readable].any()


def test_a_directory_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the images must be in a directory; received '.*none'"):
        image_folder.list_files(tmp_path / "none")
    with pytest.raises(ValueError, match="the directory must hold images; .* holds no file"):
        image_folder.list_files(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(directory, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if os.path.basename(path) == "c":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(PermissionError, match="b/c"):
        image_folder.list_files(directory)
