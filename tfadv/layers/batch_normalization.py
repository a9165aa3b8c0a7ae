import keras
import tensorflow as tf

from tfadv.layers import scope


@keras.saving.register_keras_serializable("tfadv")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization whose training can use running statistics (Section 4.3).

    `output = gamma * (x - mean) / sqrt(variance + epsilon) + beta`

    In inference, mean and variance are the moving statistics. In training they are those of the
    batch, and each moving statistic becomes `momentum * moving + (1 - momentum) * batch`, with the
    biased variance, as in Keras. In training with running statistics, which
    `tfadv.callbacks.RunningStatistics` switches on, they are the moving ones, which then stand
    still, while gamma and beta go on learning.

    Statistics and parameters are float32 under every dtype policy but `float64`, where they are
    float64. A batch without images leaves the moving statistics as they are.

    Args:
        axis: Integer, the axis of the channels.
        momentum: Float, of the moving statistics (pipeline: 0.9; Keras: 0.99).
        epsilon: Float, added to the variance (pipeline: 1e-5; Keras: 1e-3).
        **kwargs: As of `keras.layers.BatchNormalization`, without its `renorm` and
            `synchronized`: batch statistics are one worker's own, as in the paper.

    Call arguments:
        inputs: Tensor of any rank, images first.
        training: Boolean, whether to normalize with the statistics of the batch.
        mask: Boolean tensor of the shape of `inputs` without its last axis, or `None`; positions
            where it is `False` do not count in the statistics.

    Returns:
        A tensor of the shape of `inputs`, of the compute dtype.

    Raises:
        ValueError: For `renorm=True` or `synchronized=True`.
    """

    def __init__(self, axis=-1, momentum=0.9, epsilon=1e-5, **kwargs):
        for name in ("renorm", "synchronized"):
            if kwargs.get(name):
                raise ValueError(
                    f"{name} must be False in tfadv's BatchNormalization; received {kwargs[name]}"
                )
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self._find_shared = None

    def share_affine(self, other):
        """Lets this layer, before it is built, use the gamma and beta of another, built one."""
        # Behind a function, since Keras would track the other layer as a part of this one.
        self._find_shared = lambda name: getattr(other, name)

    def add_weight(self, *args, **kwargs):
        if self._find_shared is not None and kwargs.get("name") in ("gamma", "beta"):
            return self._find_shared(kwargs["name"])
        # Pure half-precision policies would otherwise store the moving statistics in 8 or 11 bits,
        # where adding a tenth of a small difference changes nothing.
        if tf.as_dtype(self.variable_dtype).size < 4:
            kwargs["dtype"] = "float32"
            kwargs["regularizer"] = _cast(kwargs.get("regularizer"), self.variable_dtype)
        return super().add_weight(*args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable) or scope.current().running_statistics:
            return super().call(inputs, training=False, mask=mask)
        gamma = self.gamma.value if self.scale else tf.ones_like(self.moving_mean.value)
        beta = self.beta.value if self.center else tf.zeros_like(self.moving_mean.value)
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
            # Without images both are NaN, which the gradient of gamma must not see.
            moments = tf.nn.moments(x, axes)
            mean, variance = (tf.where(tf.size(x) > 0, value, 0.0) for value in moments)
            return mean, variance, tf.size(x)
        weights = tf.cast(tf.expand_dims(mask, -1), x.dtype) * tf.ones_like(x)
        count = tf.maximum(tf.reduce_sum(weights, axes), 1.0)
        mean = tf.reduce_sum(weights * x, axes) / count
        centred = x - tf.reshape(mean, [-1 if i not in axes else 1 for i in range(x.shape.rank)])
        variance = tf.reduce_sum(weights * tf.square(centred), axes) / count
        return mean, variance, tf.reduce_sum(weights)


def _cast(regularizer, dtype):
    """A regularizer whose losses have the dtype of other layers', to which Keras adds them."""
    if regularizer is None:
        return None
    regularizer = keras.regularizers.get(regularizer)
    return lambda weights: tf.cast(regularizer(weights), dtype)
