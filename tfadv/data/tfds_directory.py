"""Opens what tensorflow-datasets prepared."""

import os

from tfadv.tables import datasets


def builder(entry, data_dir):
    """The builder of a prepared data set, which could not download anything if it wanted to.

    Args:
        entry: Its entry in `tfadv.tables.datasets`.
        data_dir: Directory of the prepared files.

    Returns:
        A `tensorflow_datasets.core.DatasetBuilder`.

    Raises:
        ValueError: In one line, if its description cannot be read, has not the splits and features
            that we need, or a file that it names is not there.
    """
    # Imported here: it takes seconds, and only data sets in its format need it.
    import tensorflow_datasets as tfds

    directory = datasets.prepared_directory(entry.name, data_dir)
    try:
        found = tfds.builder_from_directory(directory)
        found.info.features["image"], found.info.features["label"].num_classes
        splits = [found.info.splits[n] for n in (entry.train_split, entry.validation_split)]
        files = [str(file) for split in splits for file in split.filepaths]
    except Exception as error:  # whatever its parsers raise for files that are damaged
        raise ValueError(_again(entry, directory, f"cannot be read ({error})")) from None
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(_again(entry, directory, f"lacks its file {os.path.basename(file)}"))
    return found


def _again(entry, directory, problem):
    return f"{entry.name} in {directory} {problem}; remove it and prepare it again"
