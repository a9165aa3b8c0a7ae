"""The moving averages of weights that an optimizer with `use_ema=True` keeps."""

import tensorflow as tf


def exchange(optimizer):
    """Exchanges the weights and their averages, to the bit: a second time is back again.

    Args:
        optimizer: A built Keras optimizer, `LossScaleOptimizer` and `MultiOptimizer` among them.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for each in getattr(optimizer, "optimizers", [optimizer]):
        if not each.use_ema:
            continue
        averages = each._model_variables_moving_average
        for variable, average in zip(each._trainable_variables, averages, strict=True):
            if average is not None:
                weights = tf.identity(variable.value)
                variable.assign(tf.identity(average.value))
                average.assign(weights)
