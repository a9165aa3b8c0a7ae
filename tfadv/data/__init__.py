"""Data sets: uint8 images in [0, 255] and integer labels, sharded by example over workers.

A data set is one file here with a function `load`, and one line in `tfadv.tables.datasets`.
"""

import importlib

from tfadv.data.arrays import ArrayDataset
from tfadv.data.dataset import Dataset
from tfadv.data.errors import explain, is_io_error
from tfadv.steps import steps_per_epoch, validation_steps
from tfadv.tables import datasets

__all__ = [
    "ArrayDataset",
    "Dataset",
    "explain",
    "is_io_error",
    "load",
    "steps_per_epoch",
    "validation_steps",
]


def load(name, data_dir=None, image_size=None, seed=0, **options):
    """Opens a data set.

    Args:
        name: A name in `tfadv.tables.datasets.ENTRIES`.
        data_dir: Where the prepared files are: for tensorflow-datasets by default
            `$TFDS_DATA_DIR` or `~/tensorflow_datasets`, for `image_folder` the folder with `train`
            and `val`. Not used by `digits` and `synthetic`.
        image_size: Height and width of the images in pixels; None for the data set's own. Only
            `imagenet2012`, `image_folder` and `synthetic` come in other sizes.
        seed: Integer; draws the images of `synthetic`. The other data sets are what they are.
        **options: Passed on to the loader: `num_classes`, `num_train` and `num_validation` of
            `synthetic`.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If the arguments are refused, or no image is found.
    """
    datasets.check(name, data_dir, image_size)
    entry = datasets.ENTRIES[name]
    loader = importlib.import_module(f"tfadv.data.{entry.module}")
    return loader.load(
        entry,
        data_dir=datasets.resolve_data_dir(name, data_dir),
        image_size=image_size or entry.image_size,
        seed=seed,
        **options,
    )
