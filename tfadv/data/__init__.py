"""Data sets: uint8 images in [0, 255] and integer labels, sharded by example over workers.

A new data set is one file here, with a function `load(entry, data_dir, image_size, seed)` that
returns a `Dataset`, and one line in `tfadv.tables.datasets.ENTRIES`, which becomes `entry`.
"""

import importlib
from typing import Any

from tfadv.data.arrays import ArrayDataset
from tfadv.data.dataset import Dataset
from tfadv.data.decoding import explain, is_io_error
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


def load(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Opens a data set.

    Args:
        name: A name in `tfadv.tables.datasets.ENTRIES`.
        data_dir: Where the files are. For tensorflow-datasets the default is `$TFDS_DATA_DIR` or
            `~/tensorflow_datasets`; for `image_folder` it is the folder with `train` and `val`;
            `digits` and `synthetic` have no files.
        image_size: Height and width of the images in pixels; None for the data set's own. Only
            `imagenet2012`, `image_folder` and `synthetic` come in other sizes.
        seed: Integer that draws the images of `synthetic`.
        **options: `num_classes`, `num_train` and `num_validation` of `synthetic`;
            `validation_names` (a list of the file names of the validation images) and
            `validation_resize` (`"bicubic"` or `"bilinear"`) of `imagenet2012`.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If the arguments are refused, or no image is found.

    Example:

    ```python
    digits = tfadv.data.load("digits")
    train = digits.train_batches(batch_size=64, steps_per_epoch=22)
    ```
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
