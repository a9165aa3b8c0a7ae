import tensorflow as tf

from tfadv.attacks import checks


class Extremes:
    """The least and greatest values of what a training step has seen, which may give it away.

    A check inside a graph can raise and not warn; so the step notes these, and the callback asks
    for them after a batch.

    Args:
        value_range: `(low, high)` of the images, as it was given; None without an attack.
        logits: Boolean, whether the model's outputs are attacked as they are.
    """

    def __init__(self, value_range, logits):
        self.value_range = value_range
        self.logits = logits
        # A row for the images and one for the outputs, each of a least and a greatest value.
        self._seen = tf.Variable([[float("inf"), -float("inf")]] * 2, trainable=False)
        self._few = tf.Variable(True, trainable=False)
        self._told = value_range is None

    def add(self, images, outputs):
        """Takes in a mini-batch: its images and what the model made of them."""
        both = [tf.cast(values, tf.float32) for values in (images, outputs)]
        new = tf.stack([[tf.reduce_min(values), tf.reduce_max(values)] for values in both])
        low = tf.minimum(self._seen[:, 0], new[:, 0])
        high = tf.maximum(self._seen[:, 1], new[:, 1])
        self._seen.assign(tf.stack([low, high], axis=1))
        self._few.assign(tf.size(outputs) < checks.MANY)

    def tell(self):
        """Warns of images scaled to another range, and of outputs that are no logits; once."""
        if self._told:
            return
        (lowest, highest), (least, greatest) = self._seen.numpy().tolist()
        self._told = highest > lowest  # not after black images alone
        checks.warn_of_range(lowest, highest, self.value_range)
        if self.logits and not self._few.numpy() and 0 <= least < greatest <= 1:
            checks.warn_of_bounded()
