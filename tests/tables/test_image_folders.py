"""ImageNet's layout in a folder: what is a class, what is refused, in the words a user sees."""

import os

import pytest

from tfadv.tables import datasets, image_folders


@pytest.fixture
def layout(tmp_path):
    """Makes files, and folders where a name ends in a slash."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if name.endswith("/") else path.touch()
        return str(tmp_path)

    return make


@pytest.fixture
def data_dir(layout):
    """Three classes with two training images and a validation image each."""
    names = [f"train/{name}/{n}.jpg" for name in ("ant", "bee", "cat") for n in (1, 2)]
    return layout(*names, *(f"val/{name}/1.png" for name in ("ant", "bee", "cat")))


def refused(data_dir):
    with pytest.raises(ValueError) as error:
        datasets.check("image_folder", data_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_classes_and_images(data_dir):
    names = image_folders.classes(data_dir)
    assert names == ["ant", "bee", "cat"]
    images = list(image_folders.images(data_dir, "train", names))
    assert [label for _, label in images] == [0, 0, 1, 1, 2, 2]
    assert images[3] == (os.fsencode(f"{data_dir}/train/bee/2.jpg"), 1)
    assert image_folders.count(data_dir, "train", names) == 6
    assert image_folders.count(data_dir, "train", names, limit=4) == 4
    assert image_folders.count(data_dir, "val", names, limit=4) == 3


def test_another_layout_is_refused(layout):
    assert refused(None).startswith("data_dir must be given for image_folder")
    assert refused(layout()).endswith("/train is not there")
    assert refused(layout("train/loose.jpg", "val/")).endswith(
        "one folder a class; " + layout() + "/train holds none"
    )
    layout("train/bee/", "train/ant/", "val/ant/")
    assert refused(layout()).endswith("'bee' is in train and not in val")
    layout("val/bee/", "val/cat/")
    assert refused(layout()).endswith("'cat' is in val and not in train")


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", ".git"])
@pytest.mark.parametrize("file", ["", "1.jpg"])  # with images or without
def test_hidden_folders_and_those_of_tools_are_no_classes(layout, data_dir, name, file):
    layout(f"train/{name}/{file}", f"val/{name}/{file}")
    assert refused(data_dir) == (
        "data_dir must hold one folder a class in train and val and no others, hidden or made by a "
        f"tool; remove {data_dir}/train/{name}, {data_dir}/val/{name}"
    )


def test_files_beside_the_classes_are_no_classes(layout, data_dir):
    layout("train/.DS_Store", "val/labels.csv", "train/ant/._1.jpg", "train/ant/.thumbnails/1.jpg")
    names = image_folders.classes(data_dir)
    assert names == ["ant", "bee", "cat"] and image_folders.count(data_dir, "train", names) == 6


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("left", [[], ["notes.txt"], ["._1.jpg"], ["deeper/1.jpg"]])
def test_a_class_without_images_is_named(layout, data_dir, split, left):
    layout("train/dog/1.jpg", "val/dog/1.jpg")
    os.unlink(f"{data_dir}/{split}/dog/1.jpg")
    layout(*(f"{split}/dog/{name}" for name in left))
    message = refused(data_dir)
    assert message.startswith("data_dir must hold images (.jpeg, .jpg")
    assert message.endswith(f"of every class in train and val; {data_dir}/{split}/dog holds none")


def test_many_classes_without_images_are_named_in_one_line(layout, data_dir):
    layout(*(f"{split}/empty{n}/" for split in image_folders.SPLITS for n in range(5)))
    folder = f"{data_dir}/train/empty"
    assert refused(data_dir).endswith(f"; {folder}0, {folder}1, {folder}2 and 2 more hold none")
    for name in ("ant", "bee", "cat"):
        for n in (1, 2):
            os.unlink(f"{data_dir}/train/{name}/{n}.jpg")
    assert refused(data_dir).endswith("/train holds none")


def test_a_class_that_is_a_link_to_nothing_is_refused(data_dir):
    os.symlink("nowhere", f"{data_dir}/train/dog")
    assert refused(data_dir) == (
        f"data_dir must not hold links to nothing; {data_dir}/train/dog is one"
    )
