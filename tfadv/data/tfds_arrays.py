"""`mnist`, `fashion_mnist`, `cifar10`, `cifar100`: small enough to be loaded whole."""

import tensorflow as tf

from tfadv.data import cifar_augmentation, errors, tfds_directory
from tfadv.data.arrays import ArrayDataset

# Clothes and digits keep their place and their side, as is usual for the two MNISTs.
_AUGMENTATIONS = {"cifar10": cifar_augmentation.augment, "cifar100": cifar_augmentation.augment}


def load(entry, data_dir, image_size, seed):
    """Opens a small data set that tensorflow-datasets has prepared.

    Training images of CIFAR are shifted and mirrored (`cifar_augmentation`), those of the MNISTs
    are not augmented.

    Args:
        entry: Its entry in `tfadv.tables.datasets`.
        data_dir: Directory of the prepared files.
        image_size: Not used; the data set's own.
        seed: Not used.

    Returns:
        An `ArrayDataset`.

    Raises:
        ValueError: If the files cannot be read.
    """
    del image_size, seed
    builder = tfds_directory.builder(entry, data_dir)
    import tensorflow_datasets as tfds

    # One file after the other, so that the order of the examples is that of the files.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)

    def arrays(split):
        examples = tfds.as_numpy(
            builder.as_dataset(split=split, batch_size=-1, shuffle_files=False, read_config=config)
        )
        return examples["image"], examples["label"]

    try:
        train, validation = arrays(entry.train_split), arrays(entry.validation_split)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        damaged = errors.explain(error) or f"damaged images: {str(error).splitlines()[0]}"
        raise ValueError(f"{entry.name} in {builder.data_path}: {damaged}") from None
    return ArrayDataset(
        entry.name,
        train,
        validation,
        entry.num_classes,
        augment=_AUGMENTATIONS.get(entry.name),
        class_names=builder.info.features["label"].names,
    )
