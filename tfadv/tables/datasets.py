"""The table of data sets, and whether one can be read: without TensorFlow, for flag validation."""

import dataclasses
import importlib.util
import json
import os
import re

from tfadv.tables import image_folders

# ImageNet's own archives, which only its authors hand out.
IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a data set before it is opened.

    Attributes:
        name: Its name, also in tensorflow-datasets unless there is a `source`.
        module: The module of `tfadv.data` whose `load` opens it.
        num_classes: Number of classes; 0 if the files decide.
        image_size: Height and width of the images in pixels; the default if it is `resizable`.
        channels: Number of channels.
        num_train: Number of training images of the whole data set; 0 if the files decide.
        num_validation: The same for the images of evaluations.
        kind: "tfds" for files that tensorflow-datasets prepares, "folder" for a folder of images,
            "none" for a data set that reads no files of the user's.
        train_split: The split of the training images, for tensorflow-datasets, such as `"train"`
            or `"train[:50000]"`.
        validation_split: The same for the images of evaluations.
        resizable: Whether another `image_size` can be asked for.
        source: The data set of tensorflow-datasets whose files it reads, if it has another name.
        requires: A Python module that holds the data, and the package to install for it.
    """

    name: str
    module: str
    num_classes: int
    image_size: int
    channels: int
    num_train: int = 0
    num_validation: int = 0
    kind: str = "none"
    train_split: str = "train"
    validation_split: str = "validation"
    resizable: bool = False
    source: str = ""
    requires: tuple[str, str] | None = None


_SMALL: dict = {"kind": "tfds", "validation_split": "test"}
# To choose a recipe without a look at the test images: some training images become validation.
_DEV: dict = {
    "kind": "tfds",
    "source": "fashion_mnist",
    "train_split": "train[:50000]",
    "validation_split": "train[50000:]",
}
_IMAGENET = (1000, 224, 3, 1281167, 50000)

# The numbers of images are those of the whole data sets; a `Dataset` has those of the files.
ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("digits", "digits", 10, 8, 1, 1437, 360, requires=("sklearn", "scikit-learn")),
        Entry("mnist", "tfds_arrays", 10, 28, 1, 60000, 10000, **_SMALL),
        Entry("fashion_mnist", "tfds_arrays", 10, 28, 1, 60000, 10000, **_SMALL),
        Entry("fashion_mnist_dev", "tfds_arrays", 10, 28, 1, 50000, 10000, **_DEV),
        Entry(
            "fashion_mosaics", "mosaics", 100, 28, 1, 60000, 10000, **_SMALL, source="fashion_mnist"
        ),
        Entry("fashion_mosaics_dev", "mosaics", 100, 28, 1, 50000, 10000, **_DEV),
        Entry("cifar10", "tfds_arrays", 10, 32, 3, 50000, 10000, **_SMALL),
        Entry("cifar100", "tfds_arrays", 100, 32, 3, 50000, 10000, **_SMALL),
        Entry("imagenet2012", "imagenet", *_IMAGENET, kind="tfds", resizable=True),
        Entry("image_folder", "image_folder", 0, 224, 3, kind="folder", resizable=True),
        Entry("synthetic", "synthetic", *_IMAGENET, resizable=True),
    )
}


def check(name: str, data_dir: str | None = None, image_size: int | None = None) -> None:
    """Refuses a data set that cannot be read as asked for.

    Args:
        name: The data set's name.
        data_dir: Its directory; see `tfadv.data.load`.
        image_size: Height and width in pixels, or None for the data set's own.

    Raises:
        ValueError: In one line that says what to do: if the name is unknown, the size is not
            available, the files are not there (with the one command that prepares them), the
            folders are not in ImageNet's layout or hold classes without images, or a package is
            missing.
    """
    if name not in ENTRIES:
        raise ValueError(f"the data set must be one of {', '.join(ENTRIES)}; received {name!r}")
    entry = ENTRIES[name]
    if image_size is not None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1 (pixels); received {image_size}")
        if not entry.resizable and image_size != entry.image_size:
            raise ValueError(
                f"image_size must be {entry.image_size} for {name}, which has no other; "
                f"received {image_size}"
            )
    if entry.requires is not None:
        module, package = entry.requires
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{name} needs {package}, which holds it: pip install {package}")
    if entry.kind == "tfds":
        prepared_directory(name, data_dir)
    if entry.kind == "folder":
        image_folders.classes(data_dir)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many classes, training images and validation images a data set has."""

    num_classes: int
    num_train: int
    num_validation: int


def sizes(name: str, data_dir: str | None = None) -> Sizes:
    """The sizes of a data set without opening it: counted in a folder, else those of the table.

    Args:
        name: The data set's name.
        data_dir: Its directory, if it is a folder.

    Raises:
        ValueError: As `check` does for a folder.
    """
    entry = ENTRIES[name]
    if entry.kind != "folder":
        return Sizes(entry.num_classes, entry.num_train, entry.num_validation)
    classes = image_folders.classes(data_dir)
    assert data_dir is not None
    counts = [image_folders.count(data_dir, split, classes) for split in image_folders.SPLITS]
    return Sizes(len(classes), *counts)


def class_names(name: str, data_dir: str | None = None) -> list[str] | None:
    """The names of the classes by label, without opening the data set.

    Args:
        name: The data set's name.
        data_dir: Its directory; see `tfadv.data.load`.

    Returns:
        A list of strings; None if the data set has no files that hold them.

    Raises:
        ValueError: As `check` does, if the files are not there.
    """
    check(name, data_dir)
    kind = ENTRIES[name].kind
    if kind == "folder":
        return list(image_folders.classes(data_dir))
    if kind == "tfds":
        path = os.path.join(prepared_directory(name, data_dir), "label.labels.txt")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                names = file.read().splitlines()
            # Mosaics are made of the images of another data set, and have other classes.
            return names if len(names) == ENTRIES[name].num_classes else None
    return None


def num_train(name: str, data_dir: str | None, limit: int) -> int:
    """The smaller of `limit` and the number of training images; a folder is counted so far."""
    entry = ENTRIES[name]
    if entry.kind == "folder":
        classes = image_folders.classes(data_dir)
        assert data_dir is not None
        return image_folders.count(data_dir, image_folders.SPLITS[0], classes, limit)
    return min(entry.num_train, limit)


def resolve_data_dir(name: str, data_dir: str | None = None) -> str | None:
    """The directory that a data set is read from: the given one, or tensorflow-datasets' default.

    Args:
        name: The data set's name.
        data_dir: A directory or None.

    Returns:
        A path; None for a data set without files.
    """
    kind = ENTRIES[name].kind
    if kind == "none":
        return None
    if not data_dir and kind == "tfds":
        data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return os.path.expanduser(data_dir) if data_dir else None


def prepared_directory(name: str, data_dir: str | None = None) -> str:
    """Finds the newest version of the files that tensorflow-datasets prepared.

    Args:
        name: The data set's name in `ENTRIES`.
        data_dir: Their directory, or None for the default.

    Returns:
        The path `<data_dir>/<name in tensorflow-datasets>/<version>`.

    Raises:
        ValueError: If there is none, or a split that we need is missing from it.
    """
    data_dir, entry = resolve_data_dir(name, data_dir) or "", ENTRIES[name]
    source = entry.source or name
    root = os.path.join(data_dir, source)
    versions = [
        version
        for version in (os.listdir(root) if os.path.isdir(root) else [])
        if re.fullmatch(r"\d+\.\d+\.\d+", version)
        and os.path.isfile(os.path.join(root, version, "dataset_info.json"))
    ]
    command = f"python -m tfadv.data prepare {source} --data_dir={data_dir}"
    if name == "imagenet2012":
        command += f" --manual_dir=DIRECTORY (which holds {' and '.join(IMAGENET_ARCHIVES)})"
    if not versions:
        raise ValueError(f"{source} is not prepared in {data_dir}; to prepare it, run: {command}")
    newest = max(versions, key=lambda version: [int(part) for part in version.split(".")])
    directory = os.path.join(root, newest)
    path = os.path.join(directory, "dataset_info.json")
    try:
        with open(path, encoding="utf-8") as file:
            splits = {split["name"] for split in json.load(file).get("splits", [])}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} must describe {name} ({problem}); remove {directory} and run: {command}"
        ) from None
    for split in (entry.train_split, entry.validation_split):
        # tensorflow-datasets prepares ImageNet without a split whose archive it does not find.
        if split.partition("[")[0] not in splits:
            raise ValueError(
                f"{name} in {directory} has no split {split!r}; remove it and run: {command}"
            )
    return directory
