from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfadv.layers import scope


@keras.saving.register_keras_serializable("tfadv")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization that can train with its running statistics (Section 4.3 of the paper).

    `output = gamma * (x - mean) / sqrt(variance + epsilon) + beta`

    At inference, mean and variance are the moving statistics. In training they are those of the
    batch, and each moving statistic becomes `momentum * moving + (1 - momentum) * batch`, with the
    biased variance, as in Keras. `tfadv.callbacks.RunningStatistics` makes training use the moving
    statistics too: they then no longer change, while gamma and beta go on learning. With
    `AdversarialTraining(batch_statistics="apart")` the adversarial and the clean images of a batch
    each have statistics of their own, which update the moving statistics one after the other, as in
    two calls of the model.

    Statistics and parameters are float32, or float64 under the dtype policy `float64`. A batch
    without images leaves the moving statistics unchanged.

    Args:
        axis: Integer, the axis of the channels.
        momentum: Float, of the moving statistics (pipeline: 0.9; Keras: 0.99).
        epsilon: Float, added to the variance (pipeline: 1e-5; Keras: 1e-3).
        **kwargs: As in `keras.layers.BatchNormalization`, except `renorm` and `synchronized`: as
            in the paper, each worker normalizes with the statistics of its own batch.

    Call arguments:
        inputs: Tensor `[batch, ...]`.
        training: Boolean, whether to normalize with the statistics of the batch.
        mask: Boolean tensor of the shape of `inputs` without its last axis, or `None`; positions
            where it is `False` do not count in the statistics.

    Returns:
        A tensor of the shape of `inputs`, of the compute dtype.

    Raises:
        ValueError: If `renorm` or `synchronized` is true.

    Example:

    ```python
    layer = tfadv.layers.BatchNormalization()
    outputs = layer(images, training=True)  # statistics of these images
    outputs = layer(images)  # moving statistics
    ```
    """

    def __init__(
        self, axis: int = -1, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any
    ) -> None:
        for name in ("renorm", "synchronized"):
            if kwargs.get(name):
                raise ValueError(
                    f"{name} must be False in tfadv's BatchNormalization; received {kwargs[name]}"
                )
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self._shared_weights: tuple[str, ...] = ()
        self._shared_weight: Callable[[str], keras.Variable] | None = None

    def share(self, other: "BatchNormalization", *names: str) -> None:
        """Makes this layer, not built yet, use variables of `other`, which is: `"gamma"`, ..."""
        # A function, because Keras would track an attribute `other` as a sublayer of this layer.
        self._shared_weights, self._shared_weight = names, lambda name: getattr(other, name)

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        if self._shared_weight is not None and kwargs.get("name") in self._shared_weights:
            return self._shared_weight(kwargs["name"])
        # Half precision keeps 8 or 11 bits of a moving statistic, and adding a tenth of a small
        # difference would not change it.
        if tf.as_dtype(self.variable_dtype).size < 4:
            kwargs["dtype"] = "float32"
            kwargs["regularizer"] = _cast_regularizer(
                kwargs.get("regularizer"), self.variable_dtype
            )
        return super().add_weight(*args, **kwargs)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        current = scope.current()
        if not (training and self.trainable) or current.running_statistics:
            return super().call(inputs, training=False, mask=mask)
        if not current.apart or isinstance(current.domain, str):
            return self.normalize(inputs, mask, *self.affine())
        parts, masks = current.split(inputs), current.split(mask)
        # In this order, as two calls of the model with the parts would move the statistics.
        return tf.concat(
            [
                self.normalize(part, part_mask, *self.affine())
                for part, part_mask in zip(parts, masks, strict=True)
            ],
            axis=0,
        )

    def affine(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns gamma and beta; ones and zeros where the layer has none."""
        gamma = self.gamma.value if self.scale else tf.ones_like(self.moving_mean.value)
        beta = self.beta.value if self.center else tf.zeros_like(self.moving_mean.value)
        return gamma, beta

    def normalize(
        self, inputs: tf.Tensor, mask: tf.Tensor | None, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tf.Tensor:
        """Normalizes with the statistics of these inputs, and moves the moving statistics."""
        if mask is None and self._is_fusable(inputs):
            outputs, mean, variance, count = self._fused(inputs, gamma, beta)
        else:
            x = tf.cast(inputs, self.moving_mean.dtype)
            mean, variance, count = self._batch_moments(x, mask)
            outputs = keras.ops.batch_normalization(
                x, mean, variance, self.axis, beta, gamma, self.epsilon
            )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            change = (1.0 - self.momentum) * (batch - moving)
            moving.assign(moving + tf.where(count > 0, change, 0.0))
        return tf.cast(outputs, self.compute_dtype)

    def _is_fusable(self, inputs):
        return (
            inputs.shape.rank == 4
            and self.axis in (-1, 3)
            and inputs.dtype in (tf.float32, tf.float16, tf.bfloat16)
            and self.moving_mean.dtype == "float32"
        )

    def _fused(self, inputs, gamma, beta):
        empty = tf.zeros([0], tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=empty,
            variance=empty,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=True,
        )
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        # The kernel normalizes with the biased variance but returns the unbiased one, which is a
        # seventh larger for 8 values; Keras and the paper's pipeline keep the biased one.
        return outputs, mean, variance * (count - 1.0) / tf.maximum(count, 1.0), count

    def _batch_moments(self, x, mask):
        axes = [i for i in range(x.shape.rank) if i != self.axis % x.shape.rank]
        if mask is None:
            # Without images both moments are NaN, which must not reach the gradient of gamma.
            moments = tf.nn.moments(x, axes)
            mean, variance = (tf.where(tf.size(x) > 0, value, 0.0) for value in moments)
            return mean, variance, tf.size(x)
        weights = tf.cast(tf.expand_dims(mask, -1), x.dtype) * tf.ones_like(x)
        count = tf.maximum(tf.reduce_sum(weights, axes), 1.0)
        mean = tf.reduce_sum(weights * x, axes) / count
        centred = x - tf.reshape(mean, [-1 if i not in axes else 1 for i in range(x.shape.rank)])
        variance = tf.reduce_sum(weights * tf.square(centred), axes) / count
        return mean, variance, tf.reduce_sum(weights)


def _cast_regularizer(regularizer, dtype):
    """Casts the losses of a regularizer, because Keras adds them to those of other layers."""
    if regularizer is None:
        return None
    return _CastRegularizer(keras.regularizers.get(regularizer), dtype)


class _CastRegularizer(keras.regularizers.Regularizer):  # older Kerases take no function
    def __init__(self, regularizer, dtype):
        self._regularizer, self._dtype = regularizer, dtype

    def __call__(self, x):
        return tf.cast(self._regularizer(x), self._dtype)
