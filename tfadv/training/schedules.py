"""The paper's learning rates: a linear warm-up, then one of two decays."""

import keras
import tensorflow as tf


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """What the schedules share; a subclass gives `_decay`, a factor by the step."""

    def __init__(self, learning_rate, batch_size, steps_per_epoch, warmup_epochs):
        super().__init__()
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        base = self.learning_rate * self.batch_size / 256
        rate = base * self._decay(step)
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if base <= self.learning_rate or not warmup_steps:
            return tf.convert_to_tensor(rate, tf.float32)
        warm = self.learning_rate + (base - self.learning_rate) * step / warmup_steps
        return tf.where(step < warmup_steps, warm, rate)

    def _decay(self, step):
        raise NotImplementedError

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_epochs": self.warmup_epochs,
        }


@keras.saving.register_keras_serializable("tfadv")
class WarmupSteps(_Warmup):
    """The paper's learning rate: linear warm-up, then division by 10 at some epochs.

    `base = learning_rate * batch_size / 256`

    From `learning_rate` at step 0 it reaches `base` in equal steps at the end of the warm-up (Goyal
    et al., 2017), if `base` is the larger of the two; then it falls by 10 at every decay epoch.

    Args:
        learning_rate: Float, for 256 images of a batch (0.1 in the paper).
        batch_size: Integer, images of one update, over all workers (4096 in the paper).
        steps_per_epoch: Integer, updates.
        warmup_epochs: Integer (5 in the pipeline).
        decay_epochs: Integers, increasing (35, 70, 95 in the paper).

    Call arguments:
        step: Integer or scalar tensor, the number of finished updates.

    Returns:
        The learning rate, a float32 scalar tensor.
    """

    def __init__(
        self, learning_rate, batch_size, steps_per_epoch, warmup_epochs=5, decay_epochs=(35, 70, 95)
    ):
        super().__init__(learning_rate, batch_size, steps_per_epoch, warmup_epochs)
        self.decay_epochs = tuple(decay_epochs)

    def _decay(self, step):
        boundaries = [float(epoch * self.steps_per_epoch) for epoch in self.decay_epochs]
        if not boundaries:
            return 1.0
        passed = tf.reduce_sum([tf.cast(step >= boundary, tf.float32) for boundary in boundaries])
        return tf.pow(0.1, passed)

    def get_config(self):
        return {**super().get_config(), "decay_epochs": self.decay_epochs}


@keras.saving.register_keras_serializable("tfadv")
class WarmupExponential(_Warmup):
    """The learning rate of the first logit pairing (Appendix A): exponential, in stairs.

    `rate = base * decay_rate ^ floor(step / (decay_every * steps_per_epoch))`

    Base and warm-up are those of `WarmupSteps`. That they hold for this decay too is our
    assumption, so that Table 3 changes one setting at a time. (The code that was published with
    logit pairing multiplies 0.045 by the number of workers, of 32 images each, which is 8 times as
    much.)

    Args:
        learning_rate: Float, for 256 images of a batch (0.045 in Appendix A).
        batch_size, steps_per_epoch, warmup_epochs: As of `WarmupSteps`.
        decay_rate: Float (0.94).
        decay_every: Integer, epochs (2).

    Call arguments:
        step: Integer or scalar tensor, the number of finished updates.

    Returns:
        The learning rate, a float32 scalar tensor.
    """

    def __init__(
        self,
        learning_rate,
        batch_size,
        steps_per_epoch,
        warmup_epochs=5,
        decay_rate=0.94,
        decay_every=2,
    ):
        super().__init__(learning_rate, batch_size, steps_per_epoch, warmup_epochs)
        self.decay_rate = decay_rate
        self.decay_every = decay_every

    def _decay(self, step):
        return tf.pow(self.decay_rate, tf.floor(step / (self.decay_every * self.steps_per_epoch)))

    def get_config(self):
        return {
            **super().get_config(),
            "decay_rate": self.decay_rate,
            "decay_every": self.decay_every,
        }
