"""Data sets: uint8 images in [0, 255] and integer labels, sharded by example over workers.

`load(name)` gives a `Dataset`; the names are those of `catalog.ENTRIES`. Importing this package
imports neither TensorFlow nor NumPy, so that flags can be checked against the catalog at once.

To add a data set: one file here with a function `load`, one line in `catalog.ENTRIES`.
"""

import importlib

from tfadv.data import catalog
from tfadv.data.errors import explain, is_io_error
from tfadv.data.steps import steps_per_epoch, validation_steps

__all__ = [
    "ArrayDataset",
    "Dataset",
    "catalog",
    "explain",
    "is_io_error",
    "load",
    "steps_per_epoch",
    "validation_steps",
]

# Public classes whose modules import TensorFlow, resolved on first use.
_LAZY = {"ArrayDataset": "arrays", "Dataset": "dataset"}


def load(name, data_dir=None, image_size=None, seed=0, **options):
    """Opens a data set.

    Args:
        name: One of `catalog.ENTRIES`.
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
        ValueError: If `catalog.check` refuses the arguments, or no image is found.
    """
    catalog.check(name, data_dir, image_size)
    entry = catalog.ENTRIES[name]
    loader = importlib.import_module(f"tfadv.data.{entry.module}")
    return loader.load(
        entry,
        data_dir=catalog.resolve_data_dir(name, data_dir),
        image_size=image_size or entry.image_size,
        seed=seed,
        **options,
    )


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(f"tfadv.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
