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
        name: Its name, also in tensorflow-datasets.
        kind: "embedded" (in an installed package), "tfds" (prepared by tensorflow-datasets),
            "folder" (of image files) or "synthetic".
        module: The module of `tfadv.data` whose `load` opens it.
        num_classes: Number of classes; None if the files decide.
        image_size: Height and width of the images in pixels, by default where `resizable`.
        channels: Number of channels.
        train_split: The training images' split or sub-folder.
        validation_split: The same for the images of evaluations.
        num_train: Number of training images of the whole data set; None if the files decide.
        num_validation: The same for the images of evaluations.
        resizable: Whether another `image_size` can be asked for.
    """

    name: str
    kind: str
    module: str
    num_classes: int | None
    image_size: int
    channels: int
    train_split: str
    validation_split: str
    num_train: int | None = None
    num_validation: int | None = None
    resizable: bool = False


def _table(*entries):
    return {entry.name: entry for entry in entries}


# `num_train` and the other numbers are those of the full data sets; `Dataset` has the real ones.
ENTRIES = _table(
    Entry("digits", "embedded", "digits", 10, 8, 1, "train", "validation", 1437, 360),
    Entry("mnist", "tfds", "tfds_arrays", 10, 28, 1, "train", "test", 60000, 10000),
    Entry("fashion_mnist", "tfds", "tfds_arrays", 10, 28, 1, "train", "test", 60000, 10000),
    Entry("cifar10", "tfds", "tfds_arrays", 10, 32, 3, "train", "test", 50000, 10000),
    Entry("cifar100", "tfds", "tfds_arrays", 100, 32, 3, "train", "test", 50000, 10000),
    Entry(
        "imagenet2012",
        "tfds",
        "imagenet",
        1000,
        224,
        3,
        "train",
        "validation",
        1281167,
        50000,
        resizable=True,
    ),
    Entry(
        "image_folder",
        "folder",
        "image_folder",
        None,
        224,
        3,
        *image_folders.SPLITS,
        resizable=True,
    ),
    Entry(
        "synthetic",
        "synthetic",
        "synthetic",
        1000,
        224,
        3,
        "train",
        "validation",
        1281167,
        50000,
        resizable=True,
    ),
)


def check(name, data_dir=None, image_size=None):
    """Refuses a data set that cannot be read as asked for.

    Args:
        name: The data set's name.
        data_dir: Its directory; see `tfadv.data.load`.
        image_size: Height and width in pixels, or None for the data set's own.

    Raises:
        ValueError: In one line that says what to do: if the name is unknown, the size is not to be
            had, the files are not there (with the one command that prepares them), the folders are
            not in ImageNet's layout or hold classes without images, or scikit-learn is missing for
            `digits`.
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
    if entry.kind == "embedded" and importlib.util.find_spec("sklearn") is None:
        raise ValueError(f"{name} needs scikit-learn, which holds it: pip install scikit-learn")
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


def sizes(name, data_dir=None):
    """The numbers of a data set, without opening it: counted in a folder, else those of the table.

    Args:
        name: The data set's name.
        data_dir: Its directory; needed for a folder alone.

    Returns:
        A `Sizes`.

    Raises:
        ValueError: As `check`, of a folder.
    """
    entry = ENTRIES[name]
    if entry.kind != "folder":
        return Sizes(entry.num_classes, entry.num_train, entry.num_validation)
    classes = image_folders.classes(data_dir)
    counts = [image_folders.count(data_dir, split, classes) for split in image_folders.SPLITS]
    return Sizes(len(classes), *counts)


def num_train(name, data_dir=None, limit=None):
    """Number of training images, as of `sizes`, or `limit` if there are as many.

    Of a folder with more images than `limit` not all are counted.
    """
    entry = ENTRIES[name]
    if entry.kind == "folder":
        return image_folders.count(
            data_dir, entry.train_split, image_folders.classes(data_dir), limit
        )
    return entry.num_train if limit is None else min(entry.num_train, limit)


def resolve_data_dir(name, data_dir=None):
    """The directory a data set is read from: the one given, or tensorflow-datasets' default.

    Args:
        name: The data set's name.
        data_dir: A directory or None.

    Returns:
        A path; None for data sets that have no files.
    """
    if ENTRIES[name].kind in ("embedded", "synthetic"):
        return None
    if not data_dir and ENTRIES[name].kind != "folder":
        data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return os.path.expanduser(data_dir) if data_dir else None


def prepared_directory(name, data_dir=None):
    """Finds the files that tensorflow-datasets prepared, the newest version of them.

    Args:
        name: The data set's name in tensorflow-datasets.
        data_dir: Their directory, or None for the default.

    Returns:
        The path `<data_dir>/<name>/<version>`.

    Raises:
        ValueError: If there is none, or a split that we need is missing from it.
    """
    data_dir = resolve_data_dir(name, data_dir)
    root = os.path.join(data_dir, name)
    versions = [
        version
        for version in (os.listdir(root) if os.path.isdir(root) else [])
        if re.fullmatch(r"\d+\.\d+\.\d+", version)
        and os.path.isfile(os.path.join(root, version, "dataset_info.json"))
    ]
    command = _prepare_command(name, data_dir)
    if not versions:
        raise ValueError(f"{name} is not prepared in {data_dir}; to prepare it, run: {command}")
    newest = max(versions, key=lambda version: [int(part) for part in version.split(".")])
    directory = os.path.join(root, newest)
    path = os.path.join(directory, "dataset_info.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = {split["name"] for split in json.load(file).get("splits", [])}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} must describe {name} ({problem}); remove {directory} and run: {command}"
        ) from None
    for split in (ENTRIES[name].train_split, ENTRIES[name].validation_split):
        # tensorflow-datasets prepares ImageNet without a split whose archive it does not find.
        if split not in found:
            raise ValueError(
                f"{name} in {directory} has no split {split!r}; remove it and run: {command}"
            )
    return directory


def _prepare_command(name, data_dir):
    command = f"python -m tfadv.data prepare {name} --data_dir={data_dir}"
    if name == "imagenet2012":
        command += f" --manual_dir=DIRECTORY (which holds {' and '.join(IMAGENET_ARCHIVES)})"
    return command
