"""Files in the format of tensorflow-datasets: prepared once by one process, then only opened.

tensorflow-datasets takes seconds to import, so functions import it when they need it.
"""

import gzip
import os
import pathlib
import shutil
import tempfile

from tfadv import launcher
from tfadv.tables import datasets


def prepare(name, data_dir=None, manual_dir=None):
    """Downloads a data set, or unpacks its archives, unless that has been done.

    Args:
        name: The data set's name in `datasets.ENTRIES`.
        data_dir: Where to write the files; None for tensorflow-datasets' default.
        manual_dir: For `imagenet2012`, the directory with its two archives. For `mnist` and
            `fashion_mnist`, which are downloaded otherwise, the directory with their four files
            (`train-images-idx3-ubyte.gz` and so on, packed or not).

    Returns:
        The directory that holds the prepared files.

    Raises:
        ValueError: If the name needs no preparation, an archive is missing, or this is one of
            several workers.
    """
    entry = datasets.ENTRIES.get(name)
    if entry is not None and entry.source:
        return prepare(entry.source, data_dir, manual_dir)
    if entry is None or entry.kind != "tfds":
        names = [value.name for value in datasets.ENTRIES.values() if value.kind == "tfds"]
        raise ValueError(f"only {', '.join(names)} can be prepared; received {name!r}")
    if launcher.workers() > 1:
        # Several processes would download the same files and write over each other.
        raise ValueError(
            f"prepare must run as a single process; received {launcher.workers()} workers"
        )
    data_dir = datasets.resolve_data_dir(name, data_dir)
    try:
        return datasets.prepared_directory(name, data_dir)
    except ValueError:
        pass
    manual_dir = manual_dir and os.path.expanduser(manual_dir)
    if name == "imagenet2012":
        _check_archives(manual_dir)

    import tensorflow_datasets as tfds

    # Prepared from the original files, in the same way on every machine.
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    builder = tfds.builder(name, data_dir=data_dir)
    with tempfile.TemporaryDirectory() as folder:
        if manual_dir and name in _MNISTS:
            builder = _reading(builder, data_dir, _unpacked(name, manual_dir, folder))
        builder.download_and_prepare(download_config=config)
    return datasets.prepared_directory(name, data_dir)


_MNISTS = ("mnist", "fashion_mnist")
_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _unpacked(name, manual_dir, folder):
    """Unpacks the four files of MNIST, and checks that there are as many images as there must be.

    Returns:
        Their paths by the names that tensorflow-datasets downloads.
    """
    entry = datasets.ENTRIES[name]
    paths = {}
    for file in _MNIST_FILES:
        source = pathlib.Path(manual_dir, file)
        packed = source.with_name(f"{file}.gz")
        if not source.is_file() and not packed.is_file():
            raise ValueError(f"manual_dir must hold {file} or {file}.gz; {manual_dir} has neither")
        paths[packed.name] = str(source)
        try:
            if not source.is_file():
                paths[packed.name] = os.path.join(folder, file)
                with gzip.open(packed) as read, open(paths[packed.name], "wb") as written:
                    shutil.copyfileobj(read, written)
            with open(paths[packed.name], "rb") as read:
                count = int.from_bytes(read.read(8)[4:], "big")
        except (OSError, EOFError) as error:
            raise ValueError(f"{packed} cannot be unpacked ({error})") from None
        expected = entry.num_train if file.startswith("train") else entry.num_validation
        if count != expected:
            raise ValueError(f"{file} of {name} must hold {expected} images; received {count}")
    return paths


def _reading(builder, data_dir, paths):
    """Makes a builder like another one, so with its examples and order, that reads local files."""
    import tensorflow_datasets as tfds

    class Files:
        """Takes the place of tensorflow-datasets' download manager."""

        def download_and_extract(self, urls):
            return {key: paths[url.rpartition("/")[2]] for key, url in urls.items()}

    with tfds.core.registered.skip_registration():

        class Reading(type(builder)):
            name = builder.name
            pkg_dir_path = builder.pkg_dir_path

            def _split_generators(self, manager):
                return super()._split_generators(Files())

    return Reading(data_dir=data_dir)


def _check_archives(manual_dir):
    # tensorflow-datasets itself would go on without a missing archive, and leave its split out.
    wanted = " and ".join(datasets.IMAGENET_ARCHIVES)
    if not manual_dir:
        raise ValueError(f"manual_dir must be the directory that holds {wanted}; received None")
    for archive in datasets.IMAGENET_ARCHIVES:
        if not os.path.isfile(os.path.join(manual_dir, archive)):
            raise ValueError(f"manual_dir must hold {wanted}; {manual_dir} has no {archive}")


def builder(entry, data_dir):
    """Opens a prepared data set; this never downloads anything.

    Args:
        entry: The data set's entry in `tfadv.tables.datasets`.
        data_dir: Directory of the prepared files.

    Returns:
        A `tensorflow_datasets.core.DatasetBuilder`.

    Raises:
        ValueError: In one line, if its description cannot be read or lacks a split or a feature
            that we need, or a file that it names is not there.
    """
    import tensorflow_datasets as tfds

    directory = datasets.prepared_directory(entry.name, data_dir)

    def refusal(problem):
        return ValueError(f"{entry.name} in {directory} {problem}; remove it and prepare it again")

    try:
        builder = tfds.builder_from_directory(directory)
        builder.info.features["image"], builder.info.features["label"].num_classes
        splits = [builder.info.splits[n] for n in (entry.train_split, entry.validation_split)]
        files = [str(file) for split in splits for file in split.filepaths]
    except Exception as error:  # whatever its parsers raise for damaged files
        raise refusal(f"cannot be read ({error})") from None
    for file in files:
        if not os.path.isfile(file):
            raise refusal(f"lacks its file {os.path.basename(file)}")
    return builder
