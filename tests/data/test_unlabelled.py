import os

import numpy as np
import pytest
from PIL import Image

from tfadv.data import unlabelled


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Seven files, two of which are no images, and four that are not looked at."""
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
    assert unlabelled.list_files(directory) == [
        "b/c/no extension",
        "b/rgb.png",
        "broken.jpeg",
        "empty.png",
        "grey.png",
        "wide, even.bmp",
        "\udcff.png",
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_what_they_are_and_others_are_marked(directory, channels):
    files = unlabelled.list_files(directory)
    found = list(unlabelled.batches(directory, files, (4, 4, channels), 4))
    assert [images.shape for images, _ in found] == [(4, 4, 4, channels)] * 2
    images, readable = (np.concatenate(parts) for parts in zip(*found, strict=True))
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


def test_what_is_no_directory_of_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the images must be in a directory; received '.*none'"):
        unlabelled.list_files(tmp_path / "none")
    with pytest.raises(ValueError, match="the directory must hold images; .* holds no file"):
        unlabelled.list_files(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(directory, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if os.path.basename(path) == "c":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(PermissionError, match="b/c"):
        unlabelled.list_files(directory)
