"""A data set held whole in memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.data import sampling
from tfadv.data.dataset import Dataset


class ArrayDataset(Dataset):
    """Images and labels from NumPy arrays.

    Args:
        name: The data set's name.
        train: `(images, labels)`: uint8 [n, height, width, channels] in [0, 255], integers [n].
        validation: The same for validation.
        num_classes: Number of classes.
        augment: None, or a function of (images uint8 [batch, ...], key int64 [2]) that returns
            images of the same shape and dtype. It is applied to every training batch, in tf.data.
        class_names: A list of strings, or None.

    Raises:
        ValueError: If the arrays do not fit together.

    Example:

    ```python
    pixels = images.astype("uint8")
    dataset = tfadv.data.ArrayDataset("mine", (pixels, labels), (pixels, labels), num_classes=10)
    model.fit(dataset.train_batches(4, steps_per_epoch=2), steps_per_epoch=2, shuffle=False)
    ```
    """

    def __init__(
        self,
        name: str,
        train: tuple[Any, Any],
        validation: tuple[Any, Any],
        num_classes: int,
        augment: Callable | None = None,
        class_names: list[str] | None = None,
    ):
        train, validation = (_checked(split, num_classes) for split in (train, validation))
        if train[0].shape[1:] != validation[0].shape[1:]:
            raise ValueError(
                f"training and validation images must have one shape; received "
                f"{train[0].shape[1:]} and {validation[0].shape[1:]}"
            )
        super().__init__(
            name, num_classes, train[0].shape[1:], len(train[0]), len(validation[0]), class_names
        )
        self._augment = augment
        with tf.device("CPU:0"):  # where tf.data runs; a GPU would hold a useless copy
            self._train = tuple(tf.constant(array) for array in train)
            self._validation = tuple(tf.constant(array) for array in validation)

    def _rows(self, indices):
        """Rows of the arrays that hold the examples of these indices."""
        return indices

    def _train_batches(self, examples, batch_size):
        @tf.autograph.experimental.do_not_convert
        def gather(keys, indices):
            rows = self._rows(indices)
            images = tf.gather(self._train[0], rows)
            if self._augment is not None:
                # One key, of the batch's first image, serves the whole batch.
                images = self._augment(images, keys[0])
            return images, tf.gather(self._train[1], rows)

        return examples.batch(batch_size, drop_remainder=True).map(
            gather, num_parallel_calls=tf.data.AUTOTUNE
        )

    def _validation_batches(self, num_examples, batch_size, rank, size):
        @tf.autograph.experimental.do_not_convert
        def gather(indices):
            real = indices >= 0
            rows = self._rows(tf.maximum(indices, 0))
            images = tf.gather(self._validation[0], rows)
            images = tf.where(real[:, None, None, None], images, tf.zeros_like(images))
            labels = tf.where(real, tf.gather(self._validation[1], rows), 0)
            return images, labels, indices

        indices = sampling.validation_indices(num_examples, batch_size, rank, size)
        return tf.data.Dataset.from_tensor_slices(indices).map(
            gather, num_parallel_calls=tf.data.AUTOTUNE
        )


def _checked(split, num_classes):
    images, labels = map(np.asarray, split)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [n, height, width, channels]; received {images.dtype} "
            f"{list(images.shape)}"
        )
    if labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(
            f"labels must be one for each image, and at least one; received "
            f"{list(labels.shape)} for {len(images)} images"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must be from 0 to num_classes - 1 = {num_classes - 1}; received "
            f"{labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int32)
