import pytest

from tests.data import miniature_imagenet


@pytest.fixture
def folder(tmp_path):
    """ImageNet's layout in a folder: 3 classes, 4 training and 3 validation images of each."""
    for split, count in (("train", 4), ("val", 3)):
        for label, name in enumerate(("ant", "bee", "cat")):
            directory = tmp_path / split / name
            directory.mkdir(parents=True)
            for index in range(count):
                contents = miniature_imagenet.jpeg(label, seed=100 * label + index)
                (directory / f"{name}_{index}.JPEG").write_bytes(contents)
    return tmp_path
