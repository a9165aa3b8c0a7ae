import keras
import tensorflow as tf

from tfadv import distributed


class Changes:
    """What one step changes in a model, held back until all workers agree on it.

    Gradients, the changes of moving statistics and of compiled metrics, and counts, in the one
    order in which they travel. A moving average is linear, so the mean of the workers' changes is
    the change of the mean of what they would have kept alone.

    Args:
        model: A compiled and built Keras model.
        counts_shape: Of the counts that travel with them.
    """

    def __init__(self, model, counts_shape):
        self.model = model
        self.trainable = model.trainable_variables
        state = model.non_trainable_variables
        self.moving = [v for v in state if keras.backend.is_float_dtype(v.dtype)]
        self.other = [v for v in state if not keras.backend.is_float_dtype(v.dtype)]
        self.metrics = model.metrics_variables
        self._counts_shape = counts_shape
        self._touched = None

    def zeros(self):
        """Where a sum over the parts of a batch starts: a list of tensors."""
        variables = self.trainable + self.moving
        return (
            [tf.zeros(v.shape, v.dtype) for v in variables]
            + [tf.zeros(v.shape, tf.float32) for v in self.metrics]
            + [tf.zeros(self._counts_shape)]
        )

    def collect(self, gradients, layers, metrics, counts):
        """Puts what one part of a batch changes into a list of tensors.

        Args:
            gradients: List, of `trainable`; None where a variable had no part in the loss.
            layers: The `keras.StatelessScope` of the model's call.
            metrics: The `keras.StatelessScope` of the metrics' update.
            counts: Tensor.

        Raises:
            ValueError: If a layer assigns a variable that gradients train.
        """
        for variable in self.trainable:
            if layers.get_current_value(variable) is not None:
                raise ValueError(
                    "layers must not assign what gradients train, as SpectralNormalization does; "
                    f"received {variable.path!r}"
                )
        # Variables that no image of any worker reaches, as those of a mixture's clean branch
        # where there are no clean images, stay exactly as they are; and, as frozen ones, at home.
        self._touched = [gradient is not None for gradient in gradients]
        self._touched += [layers.get_current_value(v) is not None for v in self.moving]
        self._touched += [True] * (len(self.metrics) + 1)
        for variable in self.other:  # the states of random generators, which no mean makes sense of
            value = layers.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        dense = [
            tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, self.trainable, strict=True)
        ]
        return [
            *dense,
            *[_change(layers, v) for v in self.moving],
            *[tf.cast(_change(metrics, v), tf.float32) for v in self.metrics],
            counts,
        ]

    def apply(self, sums, parts):
        """Averages the sums over parts and workers, and changes the model by them.

        Args:
            sums: List of tensors, as of `collect`.
            parts: Integer, how many parts of a batch they are sums over.

        Returns:
            The mean counts.
        """
        sent = [value / parts for value, on in zip(sums, self._touched, strict=True) if on]
        means, touched = iter(distributed.mean(sent, "tfadv_step")), iter(self._touched)
        pairs = [(next(means), variable) for variable in self.trainable if next(touched)]
        for variable in self.moving:
            if next(touched):
                variable.assign(variable.value + next(means))
        for variable in self.metrics:
            change = next(means) * (parts * distributed.size())
            if not keras.backend.is_float_dtype(variable.dtype):
                change = tf.round(change)  # a mean times its number may be 6.9999995
            variable.assign(variable.value + tf.cast(change, variable.dtype))
        self.model.optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
        return next(means)


def _change(scope, variable):
    value = scope.get_current_value(variable)
    if value is None:
        return tf.zeros(variable.shape, variable.dtype)
    return value - variable.value
