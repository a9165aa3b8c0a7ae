"""The moving averages of weights that an optimizer with `use_ema=True` keeps."""

import tensorflow as tf

from tfadv import keras_internals


def exchange(optimizer):
    """Exchanges the weights and their averages, to the bit: a second time is back again.

    Args:
        optimizer: A built Keras optimizer, `LossScaleOptimizer` and `MultiOptimizer` among them.
    """
    for variable, average in keras_internals.averaged_variables(optimizer):
        weights = tf.identity(variable.value)
        variable.assign(tf.identity(average.value))
        average.assign(weights)
