import tensorflow as tf

from tfadv import models


class Network:
    """A classifier as one of its branches: what is attacked and what is reported.

    Both go through here, so that no attack meets another branch than the one that is reported.
    The object is what an attack keeps its compiled graphs by: use one for all batches.

    Args:
        logits_model: A Keras model that ends in logits, as of `tfadv.models.logits`.
        domain: `"adv"` or `"clean"`.
        attack_precision: What it computes in while it is attacked, as of `tfadv.models.Frozen`.
            Predictions are the model's own.

    Attributes:
        num_classes: Integer; None until `predict` was called.

    Call arguments:
        images: Float32 `[batch, height, width, channels]`.

    Returns:
        Logits `[batch, classes]`, of inference: moving statistics are used and not moved.
    """

    def __init__(self, logits_model, domain, attack_precision="float32"):
        self._model = logits_model
        self._domain = domain
        self.prepare = models.Frozen(logits_model, domain, attack_precision).prepare
        self.num_classes = None
        self.predict = tf.function(self._predict, autograph=False, reduce_retracing=True)

    def __call__(self, images):
        return models.call(self._model, images, training=False, domain=self._domain)

    def _predict(self, images):
        logits = self(images)
        if logits.shape.rank != 2 or logits.shape[-1] is None:
            raise ValueError(f"model must return [batch, classes]; it returns {logits.shape}")
        if logits.shape[-1] == 1:
            raise ValueError(
                f"model must return [batch, classes] of at least two classes; it returns "
                f"{logits.shape}"
            )
        self.num_classes = logits.shape[-1]
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        # The largest of NaNs would be class 0, and right for every image of that class.
        broken = tf.reduce_any(tf.math.is_nan(tf.cast(logits, tf.float32)), axis=-1)
        return tf.where(broken, -1, predicted)
