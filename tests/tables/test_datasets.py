import json

import pytest

from tfadv import data
from tfadv.tables import datasets


def _prepared(data_dir, name, version, splits=("train", "validation", "test")):
    directory = data_dir / name / version
    directory.mkdir(parents=True)
    info = {"splits": [{"name": split} for split in splits]}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of digits, mnist, .*; received 'imagenet'"):
        datasets.check("imagenet")


def test_other_image_sizes_are_refused():
    with pytest.raises(ValueError, match="^image_size must be 8 for digits.*; received 224$"):
        datasets.check("digits", image_size=224)
    with pytest.raises(ValueError, match="^image_size must be at least 1 .*; received 0$"):
        datasets.check("synthetic", image_size=0)
    datasets.check("digits", image_size=8)
    datasets.check("synthetic", image_size=37)


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="digits needs scikit-learn.*pip install scikit-learn"):
        datasets.check("digits")


def test_unprepared_data_name_the_command(tmp_path):
    command = f"python -m tfadv.data prepare cifar10 --data_dir={tmp_path}$"
    with pytest.raises(ValueError, match=f"^cifar10 is not prepared in {tmp_path}; .*{command}"):
        datasets.check("cifar10", str(tmp_path))
    command = f"python -m tfadv.data prepare imagenet2012 --data_dir={tmp_path} --manual_dir="
    with pytest.raises(ValueError, match=f"{command}.*ILSVRC2012_img_train.tar") as error:
        data.load("imagenet2012", str(tmp_path))
    assert "\n" not in str(error.value)


def test_the_default_directory_is_that_of_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    directory = _prepared(tmp_path, "mnist", "3.0.1")
    assert datasets.prepared_directory("mnist") == str(directory)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match=f"{tmp_path}/home/tensorflow_datasets"):
        datasets.prepared_directory("mnist")


def test_the_newest_prepared_version_counts(tmp_path):
    for version in ("5.1.0", "5.10.0", "5.9.1"):
        _prepared(tmp_path, "imagenet2012", version)
    (tmp_path / "imagenet2012" / "6.0.0").mkdir()  # Not finished.
    assert datasets.prepared_directory("imagenet2012", str(tmp_path)).endswith("/5.10.0")


def test_a_missing_split_is_named(tmp_path):
    _prepared(tmp_path, "imagenet2012", "5.1.0", splits=("train",))
    with pytest.raises(ValueError, match="has no split 'validation'; remove it and run: python"):
        datasets.check("imagenet2012", str(tmp_path))


def test_names_of_classes_without_opening_the_data_set(tmp_path):
    assert datasets.class_names("digits") is None  # they are called by their numbers
    with pytest.raises(ValueError, match="cifar10 is not prepared in"):
        datasets.class_names("cifar10", str(tmp_path))
    names = [f"kind {label}" for label in range(10)]
    for name, version in (("cifar10", "3.0.2"), ("fashion_mnist", "3.0.1")):
        directory = _prepared(tmp_path, name, version)
        assert datasets.class_names(name, str(tmp_path)) is None
        (directory / "label.labels.txt").write_text("\n".join(names) + "\n")
        assert datasets.class_names(name, str(tmp_path)) == names
    assert datasets.class_names("fashion_mosaics", str(tmp_path)) is None
