"""The mini-batch of adversarial training: adversarial images first, then clean ones."""

import tensorflow as tf


def clean_count(batch_size, ratio):
    """How many clean images stay in a mini-batch with `batch_size` adversarial ones.

    The share is rounded to the nearest whole image, halves up, and is at least one image: 20% of
    32 are 6, and 20% of 2 are 1.

    Args:
        batch_size: Integer, or a scalar integer tensor where it is known only in the graph.
        ratio: Float above 0 and up to 1.

    Returns:
        An integer, or a scalar integer tensor.
    """
    if isinstance(batch_size, int):
        return max(1, int(ratio * batch_size + 0.5))
    share = tf.floor(ratio * tf.cast(batch_size, tf.float64) + 0.5)
    return tf.maximum(1, tf.cast(share, tf.int32))


def split(tensors, parts):
    """Splits the batch of each tensor (or None) into `parts` equal ones: `[parts, batch, ...]`.

    Args:
        tensors: A nested structure of them.
        parts: Integer.
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
    """Adversarial images, and after them the clean ones that stay, with labels and weights.

    Each is a tensor, or a dictionary, list or tuple of one, as the model and its loss take it.

    Args:
        images: Clean images, float32 `[batch, ...]`.
        adversarial: Their adversarial counterparts, or None to train on clean images alone.
        labels: Of the clean images, sparse or one-hot.
        weights: Sample weights `[batch]`, or None.
        clean_ratio: Share of clean images kept beside adversarial ones; the first of the batch,
            each of which is the counterpart of the adversarial image in the same place.

    Attributes:
        images, labels, weights: The whole mini-batch.
        domain: Of `tfadv.models.call`.
        num_adversarial, num_clean: Integers, or scalar tensors.
        parts: Which of the two domains there are, of `("adv", "clean")`.
    """

    def __init__(self, images, adversarial, labels, weights, clean_ratio):
        first = tf.nest.flatten(images)[0]
        size = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        if adversarial is None:
            self.num_adversarial, self.num_clean, self.domain = 0, size, "clean"
            self.parts = ("clean",)
        elif clean_ratio == 0:
            self.num_adversarial, self.num_clean, self.domain = size, 0, "adv"
            self.parts = ("adv",)
        else:
            self.num_adversarial, self.num_clean = size, clean_count(size, clean_ratio)
            self.domain = size
            self.parts = ("adv", "clean")

        def join(adversarial, clean):
            pieces = {"adv": adversarial, "clean": clean[: self.num_clean]}
            return tf.concat([pieces[part] for part in self.parts], axis=0)

        def join_all(adversarial, clean):
            if adversarial is None:
                return tf.nest.map_structure(lambda tensor: join(None, tensor), clean)
            return tf.nest.map_structure(join, adversarial, clean)

        self.images = join_all(adversarial, images)
        self.labels = join_all(labels, labels)
        self.weights = None if weights is None else join_all(weights, weights)

    def part(self, tensor, domain):
        """The adversarial or the clean part of a tensor of the whole mini-batch (or of None)."""
        if tensor is None:
            return None
        places = slice(self.num_adversarial)
        if domain == "clean":
            places = slice(self.num_adversarial, None)
        return tf.nest.map_structure(lambda each: each[places], tensor)
