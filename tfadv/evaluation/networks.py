"""The network that an attack and an evaluation see: one branch of a classifier at inference."""

from typing import Any

import keras
import tensorflow as tf

from tfadv import models


class Network:
    """One branch of a classifier: images -> logits, computed as at inference.

    The attack and the report both use this object, so that no other branch can be attacked than
    the one that is reported. An attack keeps its compiled graphs by it: use one for all batches.

    Args:
        logits_model: A Keras model that ends in logits, as of `tfadv.models.logits`.
        domain: `"adv"`, `"clean"`, or None for a model without a mixture.
        attack_precision: Precision of the attack, as of `tfadv.models.Frozen`. `predict` is always
            the model as it is, and sets `num_classes`.
        rematerialize: Boolean, whether the attack computes activations again for its gradient.
    """

    def __init__(
        self,
        logits_model: keras.Model,
        domain: str | None,
        attack_precision: str = "float32",
        rematerialize: bool = False,
    ) -> None:
        self.domain = domain
        self.branch = domain or "adv"
        self.num_classes: Any = None
        self.prepare = models.Frozen(
            logits_model, self.branch, attack_precision, rematerialize=rematerialize
        ).prepare
        self.predict = tf.function(self._predict, autograph=False, reduce_retracing=True)
        self._model = logits_model

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return models.call(self._model, images, training=False, domain=self.branch)

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
        # The argmax of NaNs would be class 0, and correct for every image of that class.
        broken = tf.reduce_any(tf.math.is_nan(tf.cast(logits, tf.float32)), axis=-1)
        return tf.where(broken, -1, predicted)


class Networks:
    """Makes the networks of a model, each only once.

    A training and its evaluations that take them from here share their compiled graphs.

    Args:
        model: A Keras classifier.

    Call arguments:
        domain, attack_precision, rematerialize: As of `Network`; the domain is ignored for a model
            without a mixture.

    Returns:
        A `Network`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._logits = models.logits(model)
        self._has_branches = bool(models.mixtures(model))
        self._kept: dict[tuple, Network] = {}

    def __call__(
        self, domain: str | None, attack_precision: str = "float32", rematerialize: bool = False
    ) -> Network:
        key = domain if self._has_branches else None, attack_precision, rematerialize
        if key not in self._kept:
            self._kept[key] = Network(self._logits, *key)
        return self._kept[key]

    def clear(self) -> None:
        """Forgets them, and with them their graphs, once nobody else uses them."""
        self._kept.clear()
