import functools

import keras

from tfadv.training.schedules import WarmupExponential, WarmupSteps


def optimizer(settings, steps_per_epoch):
    """The optimizer of `--optimizer`, with the learning rate of `--decay` and so on.

    Args:
        settings: Namespace, of `tfadv.config.train`.
        steps_per_epoch: Integer, updates.

    Returns:
        A Keras optimizer; under float16 one that scales the loss.
    """
    schedule = _SCHEDULES[settings.decay](settings)
    made = _OPTIMIZERS[settings.optimizer](
        settings,
        schedule(
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=settings.warmup_epochs,
        ),
    )
    if settings.dtype == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(made)
    return made


def description(settings):
    """The optimizer and its learning rate in words, for who starts a run."""
    epochs = ", ".join(map(str, settings.decay_epochs))
    fall = {
        "step": f"divided by 10 at epochs {epochs}" if epochs else "constant",
        "exponential": f"times {settings.decay_rate:g} every {settings.decay_every} epochs",
    }[settings.decay]
    return f"{settings.optimizer}, learning rate {settings.learning_rate:g} for 256 images, {fall}"


_SCHEDULES = {
    "step": lambda settings: functools.partial(WarmupSteps, decay_epochs=settings.decay_epochs),
    "exponential": lambda settings: functools.partial(
        WarmupExponential, decay_rate=settings.decay_rate, decay_every=settings.decay_every
    ),
}

_OPTIMIZERS = {
    "sgd": lambda settings, rate: keras.optimizers.SGD(
        rate, momentum=settings.momentum, nesterov=True
    ),
    # Epsilon is under the root, as TensorFlow 1's; whose mean square began at 1, where this one
    # begins at 0.
    "rmsprop": lambda settings, rate: keras.optimizers.RMSprop(
        rate,
        rho=settings.rmsprop_rho,
        momentum=settings.momentum,
        epsilon=settings.rmsprop_epsilon,
    ),
}
