"""Downloads a data set, or unpacks its archives, once: by one process, ahead of any training."""

import os

from tfadv.tables import datasets

# Set by horovodrun (Gloo), by Open MPI and by MPICH and its kin.
_WORLD_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def prepare(name, data_dir=None, manual_dir=None):
    """Prepares a data set of tensorflow-datasets.

    Args:
        name: The data set's name in `datasets.ENTRIES`.
        data_dir: Where to write the files; None for tensorflow-datasets' default.
        manual_dir: For `imagenet2012`, the directory with its two archives.

    Returns:
        The directory that holds the prepared files. Files already there stay as they are.

    Raises:
        ValueError: If the name needs no preparation, an archive is missing, or this is one of
            several workers.
    """
    entry = datasets.ENTRIES.get(name)
    if entry is None or entry.kind != "tfds":
        names = [key for key, value in datasets.ENTRIES.items() if value.kind == "tfds"]
        raise ValueError(f"only {', '.join(names)} can be prepared; received {name!r}")
    for variable in _WORLD_SIZES:
        # Several processes would download the same files and write over each other.
        if int(os.environ.get(variable) or 1) > 1:
            raise ValueError(
                f"prepare must run as a single process; received {variable}={os.environ[variable]}"
            )
    data_dir = datasets.resolve_data_dir(name, data_dir)
    try:
        return datasets.prepared_directory(name, data_dir)
    except ValueError:
        pass
    if name == "imagenet2012":
        _check_archives(manual_dir)

    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir and os.path.expanduser(manual_dir),
            # Made here from the original files, on every machine alike.
            try_download_gcs=False,
        )
    )
    return datasets.prepared_directory(name, data_dir)


def _check_archives(manual_dir):
    # tensorflow-datasets itself would go on without a missing archive, and leave its split out.
    wanted = " and ".join(datasets.IMAGENET_ARCHIVES)
    if not manual_dir:
        raise ValueError(f"manual_dir must be the directory that holds {wanted}; received None")
    for archive in datasets.IMAGENET_ARCHIVES:
        if not os.path.isfile(os.path.join(os.path.expanduser(manual_dir), archive)):
            raise ValueError(f"manual_dir must hold {wanted}; {manual_dir} has no {archive}")
