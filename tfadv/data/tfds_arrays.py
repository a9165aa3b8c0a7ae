"""`mnist`, `fashion_mnist`, `cifar10`, `cifar100`: small enough to be loaded whole.

`fashion_mnist_dev` validates on the last 10,000 training images of `fashion_mnist`, to choose
settings without a look at its test images.
"""

import tensorflow as tf

from tfadv.data import decoding, tfds_files
from tfadv.data.arrays import ArrayDataset

_PADDING = 4  # pixels on each side of an image that is shifted


def load(entry, data_dir, image_size, seed):
    """Opens a small data set that tensorflow-datasets has prepared.

    Training images of CIFAR are shifted and mirrored. Those of the two MNISTs are not augmented:
    clothes and digits have their place and their side.

    Raises:
        ValueError: If the files cannot be read.
    """
    del image_size, seed
    train, validation, names = read(entry, data_dir)
    return ArrayDataset(
        entry.name,
        train,
        validation,
        entry.num_classes,
        augment=shift_and_mirror if entry.name.startswith("cifar") else None,
        class_names=names,
    )


def read(entry, data_dir):
    """Reads both splits of a small data set.

    Returns:
        Images and labels of the training split, those of the validation split, as arrays, and the
        names of the classes.

    Raises:
        ValueError: If the files cannot be read.
    """
    builder = tfds_files.builder(entry, data_dir)
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
        problem = decoding.explain(error) or f"damaged images: {str(error).splitlines()[0]}"
        raise ValueError(f"{entry.name} in {builder.data_path}: {problem}") from None
    return train, validation, builder.info.features["label"].names


def shift_and_mirror(images, key):
    """Crops images at random after padding them with four zero pixels a side; mirrors half of them.

    Args:
        images: uint8 [batch, height, width, channels].
        key: int64 [2]; each image of the batch has its own draws.

    Returns:
        uint8 of the same shape.
    """
    batch, height, width = images.shape[:3]
    draws = tf.random.stateless_uniform(
        [batch, 2], key, maxval=2 * _PADDING + 1, dtype=tf.int32, alg="philox"
    )
    flips = tf.random.stateless_uniform(
        [batch], tf.random.fold_in(key, tf.constant(1, key.dtype), alg="philox"), alg="philox"
    )
    sides = [_PADDING, _PADDING]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    rows = draws[:, :1] + tf.range(height)
    columns = draws[:, 1:] + tf.range(width)
    # To mirror an image is to read its columns backwards.
    columns = tf.where(flips[:, None] < 0.5, columns, columns[:, ::-1])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    cropped = tf.gather(cropped, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)
