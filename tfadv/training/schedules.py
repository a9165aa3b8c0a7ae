import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfadv")
class WarmupSteps(keras.optimizers.schedules.LearningRateSchedule):
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
        super().__init__()
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs
        self.decay_epochs = tuple(decay_epochs)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        base = self.learning_rate * self.batch_size / 256
        boundaries = [float(epoch * self.steps_per_epoch) for epoch in self.decay_epochs]
        decays = tf.reduce_sum([tf.cast(step >= boundary, tf.float32) for boundary in boundaries])
        rate = base * (tf.pow(0.1, decays) if boundaries else 1.0)
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if base <= self.learning_rate or not warmup_steps:
            return tf.convert_to_tensor(rate, tf.float32)
        warm = self.learning_rate + (base - self.learning_rate) * step / warmup_steps
        return tf.where(step < warmup_steps, warm, rate)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_epochs": self.warmup_epochs,
            "decay_epochs": self.decay_epochs,
        }
