import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfadv")
class GroupNormalization(keras.layers.GroupNormalization):
    """Group normalization (Wu and He, 2018) with a faster gradient.

    `output = gamma * (x - mean) / sqrt(variance + epsilon) + beta`

    Mean and variance are those of one image and one group of channels. Arguments, weights and
    outputs are those of `keras.layers.GroupNormalization`; only the computation differs. It sums
    over positions first, whose values are adjacent in memory, and over the channels of a group
    last, when each channel is one number; and its gradient is one function instead of a gradient
    for each operation (benchmarks/normalization.py).

    Args:
        groups, **kwargs: As in `keras.layers.GroupNormalization`.

    Call arguments:
        inputs: Tensor `[batch, ..., channels]`.

    Returns:
        A tensor of the shape of `inputs`, of the compute dtype.

    Reference:

    - [Wu and He, 2018](https://arxiv.org/abs/1803.08494)

    Example:

    ```python
    outputs = tfadv.layers.GroupNormalization(groups=3)(images)
    ```
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        rank = inputs.shape.rank
        channels = inputs.shape[-1]
        if rank < 3 or self.axis not in (-1, rank - 1) or inputs.dtype == tf.float64:
            return super().call(inputs)
        gamma = self.gamma.value if self.scale else tf.ones([channels])
        beta = self.beta.value if self.center else tf.zeros([channels])
        gamma, beta = (tf.cast(value, tf.float32) for value in (gamma, beta))
        size = [-1 if length is None else length for length in inputs.shape]
        if size.count(-1) > 1:
            size = tf.shape(inputs)
        # One axis of positions, because broadcasting over three takes twice as long.
        flat = tf.reshape(inputs, [tf.shape(inputs)[0], -1, channels])
        outputs = _normalize(flat, gamma, beta, self.groups, self.epsilon)
        return tf.cast(tf.reshape(outputs, size), self.compute_dtype)


def _normalize(inputs, gamma, beta, groups, epsilon):
    channels = inputs.shape[-1]

    def group_mean(sums, positions):
        """From sums over positions `[batch, 1, channels]`, the mean of each channel's group."""
        means = tf.reduce_mean(tf.reshape(sums, [-1, groups, channels // groups]), -1)
        return tf.repeat(means / positions, channels // groups, axis=-1)[:, None]

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        dtype = x.dtype
        positions = tf.cast(tf.shape(x)[1], tf.float32)

        mean = group_mean(tf.reduce_sum(tf.cast(x, tf.float32), 1, keepdims=True), positions)
        centred = tf.cast(x, tf.float32) - mean
        # The mean of squares less the square of the mean could be nothing but rounding error.
        variance = group_mean(tf.reduce_sum(tf.square(centred), 1, keepdims=True), positions)
        inverse = tf.math.rsqrt(variance + epsilon)

        def gradient(upstream):
            upstream = tf.cast(upstream, tf.float32)
            # Recomputed, so that the forward pass need not keep it in float32.
            centred = tf.cast(x, tf.float32) - mean
            by_beta = tf.reduce_sum(upstream, 1, keepdims=True)
            by_gamma = tf.reduce_sum(upstream * centred, 1, keepdims=True) * inverse
            along = group_mean(gamma * by_gamma, positions) * tf.square(inverse)
            constant = group_mean(gamma * by_beta, positions) * inverse
            by_inputs = upstream * (inverse * gamma) - (centred * along + constant)
            return (
                tf.cast(by_inputs, dtype),
                tf.reduce_sum(by_gamma, [0, 1]),
                tf.reduce_sum(by_beta, [0, 1]),
            )

        return tf.cast(centred * (inverse * gamma) + beta, dtype), gradient

    return normalize(inputs, gamma, beta)
