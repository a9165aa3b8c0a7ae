"""The paper's learning rates: a linear warm-up, then one of two decays."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """The linear warm-up; a subclass gives the factor `_decay(step)`."""

    def __init__(
        self, learning_rate: float, batch_size: int, steps_per_epoch: int, warmup_epochs: int
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs

    def __call__(self, step: Any) -> tf.Tensor:
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

    def get_config(self) -> dict[str, Any]:
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

    If `base` is larger than `learning_rate`, the rate rises linearly from `learning_rate` at step 0
    to `base` at the end of the warm-up (Goyal et al., 2017). It is divided by 10 at every decay
    epoch.

    Args:
        learning_rate: Float, the rate for batches of 256 images (0.1 in the paper).
        batch_size: Integer, images of one update over all workers (4096 in the paper).
        steps_per_epoch: Integer, updates of one epoch.
        warmup_epochs: Integer, epochs of the warm-up (5 in the pipeline).
        decay_epochs: Increasing integers (35, 70, 95 in the paper).

    Call arguments:
        step: Integer or scalar tensor, the number of finished updates.

    Returns:
        The learning rate, a float32 scalar tensor.

    Example:

    ```python
    rate = tfadv.training.WarmupSteps(0.1, batch_size=512, steps_per_epoch=2500)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    ```
    """

    def __init__(
        self,
        learning_rate: float,
        batch_size: int,
        steps_per_epoch: int,
        warmup_epochs: int = 5,
        decay_epochs: Sequence[int] = (35, 70, 95),
    ) -> None:
        super().__init__(learning_rate, batch_size, steps_per_epoch, warmup_epochs)
        self.decay_epochs = tuple(decay_epochs)

    def _decay(self, step):
        boundaries = [float(epoch * self.steps_per_epoch) for epoch in self.decay_epochs]
        if not boundaries:
            return 1.0
        passed = tf.reduce_sum([tf.cast(step >= boundary, tf.float32) for boundary in boundaries])
        return tf.pow(0.1, passed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decay_epochs": self.decay_epochs}


@keras.saving.register_keras_serializable("tfadv")
class WarmupExponential(_Warmup):
    """The learning rate of the original logit pairing (Appendix A): exponential, in steps.

    `rate = base * decay_rate ^ floor(step / (decay_every * steps_per_epoch))`

    Base and warm-up are those of `WarmupSteps`. This is our assumption, so that Table 3 changes one
    setting at a time. (The code published with logit pairing multiplies 0.045 by the number of
    workers, with 32 images each, which is 8 times as much.)

    Args:
        learning_rate: Float, the rate for batches of 256 images (0.045 in Appendix A).
        batch_size, steps_per_epoch, warmup_epochs: As in `WarmupSteps`.
        decay_rate: Float, the factor of one decay (0.94).
        decay_every: Integer, epochs between two decays (2).

    Call arguments:
        step: Integer or scalar tensor, the number of finished updates.

    Returns:
        The learning rate, a float32 scalar tensor.

    Example:

    ```python
    rate = tfadv.training.WarmupExponential(0.045, batch_size=512, steps_per_epoch=2500)
    optimizer = keras.optimizers.RMSprop(rate, rho=0.9)
    ```
    """

    def __init__(
        self,
        learning_rate: float,
        batch_size: int,
        steps_per_epoch: int,
        warmup_epochs: int = 5,
        decay_rate: float = 0.94,
        decay_every: int = 2,
    ) -> None:
        super().__init__(learning_rate, batch_size, steps_per_epoch, warmup_epochs)
        self.decay_rate = decay_rate
        self.decay_every = decay_every

    def _decay(self, step):
        return tf.pow(self.decay_rate, tf.floor(step / (self.decay_every * self.steps_per_epoch)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "decay_rate": self.decay_rate,
            "decay_every": self.decay_every,
        }
