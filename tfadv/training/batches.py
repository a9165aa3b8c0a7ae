"""The mini-batch of adversarial training: adversarial images first, then clean ones."""

from typing import Any

import tensorflow as tf


def clean_count(batch_size: Any, ratio: float) -> Any:
    """How many clean images stay in a mini-batch with `batch_size` adversarial ones.

    The share is rounded to the nearest whole image, halves up, and is at least one image: 20% of
    32 are 6, and 20% of 2 are 1.

    Args:
        batch_size: Integer, or a scalar integer tensor if it is known only in the graph.
        ratio: Float above 0 and up to 1.

    Returns:
        An integer, or a scalar integer tensor.
    """
    if isinstance(batch_size, int):
        return max(1, int(ratio * batch_size + 0.5))
    share = tf.floor(ratio * tf.cast(batch_size, tf.float64) + 0.5)
    return tf.maximum(1, tf.cast(share, tf.int32))


def split(tensors: Any, parts: int) -> Any:
    """Splits each tensor (or None) of a structure into equal parts: `[parts, batch / parts, ...]`.

    Raises:
        ValueError: If the parts do not divide the batch, or its size is not fixed.
    """

    def split_one(tensor):
        if tensor is None:
            return None
        size = tensor.shape[0]
        if size is None or size % parts:
            raise ValueError(
                f"accumulation_steps must divide a batch of fixed size (drop_remainder=True); "
                f"received accumulation_steps={parts} for batches of {size}"
            )
        return tf.reshape(tensor, [parts, size // parts, *tensor.shape[1:]])

    return tf.nest.map_structure(split_one, tensors)


class Mixture:
    """A mini-batch of adversarial images, the clean ones that stay, their labels and weights.

    Each is a tensor, or a dictionary, list or tuple of one, as the model and its loss take it.

    Args:
        images: Clean images, float32 `[batch, ...]`.
        adversarial: Their adversarial counterparts, or None to train on clean images alone.
        labels: Labels of the clean images, sparse or one-hot.
        weights: Sample weights `[batch]`, or None.
        clean_ratio: Share of the clean images to keep beside adversarial ones. They are the first
            ones of the batch, so that each has its counterpart in the same place.

    Attributes:
        images, labels, weights: The whole mini-batch.
        domain: For `tfadv.models.call`.
        num_adversarial, num_clean: Integers, or scalar tensors.
        parts: The domains that it has, of `("adv", "clean")`.
    """

    def __init__(
        self, images: Any, adversarial: Any, labels: Any, weights: Any, clean_ratio: float
    ) -> None:
        first = tf.nest.flatten(images)[0]
        size = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        self.num_adversarial, self.num_clean, self.domain = size, 0, "adv"
        self.parts: tuple[str, ...] = ("adv",)
        if adversarial is None:
            self.num_adversarial, self.num_clean, self.domain = 0, size, "clean"
            self.parts, adversarial = ("clean",), images
        elif clean_ratio:
            self.num_clean, self.domain = clean_count(size, clean_ratio), size
            self.parts = ("adv", "clean")

        def join(adversarial, clean):
            pieces = {"adv": adversarial, "clean": clean[: self.num_clean]}
            return tf.concat([pieces[part] for part in self.parts], axis=0)

        self.images = tf.nest.map_structure(join, adversarial, images)
        self.labels = tf.nest.map_structure(join, labels, labels)
        self.weights = None if weights is None else tf.nest.map_structure(join, weights, weights)

    def part(self, tensor: Any, domain: str) -> Any:
        """The adversarial or the clean part of a tensor of the whole mini-batch (or of None)."""
        if tensor is None:
            return None
        places = slice(self.num_adversarial)
        if domain == "clean":
            places = slice(self.num_adversarial, None)
        return tf.nest.map_structure(lambda each: each[places], tensor)
