import keras

from tfadv.attacks import arguments
from tfadv.callbacks.adversarial_training import installed
from tfadv.layers import BatchNormalization


class RunningStatistics(keras.callbacks.Callback):
    """Trains the last epochs on the running statistics of batch normalization (Section 4.3).

    In these epochs batch normalization normalizes with its moving statistics, which stand still,
    while gamma and beta go on learning; so it behaves in training as it does in testing. Put it
    after `AdversarialTraining`.

    Args:
        last_epochs: Integer, how many (10 of the paper's 110).

    Raises:
        ValueError: If `last_epochs` is no such number; and from `fit`, without
            `AdversarialTraining`, or if the model's batch normalization is not tfadv's:
            `tfadv.models.convert(model, "bn")` makes it so.
    """

    def __init__(self, last_epochs=10):
        super().__init__()
        self.last_epochs = arguments.integer("last_epochs", last_epochs, 0)

    def on_train_begin(self, logs=None):
        installed(self)
        layers = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        for layer in layers:
            # Keras's own could only be run with `trainable=False`, which freezes gamma and beta.
            if not isinstance(layer, BatchNormalization):
                raise ValueError(
                    "RunningStatistics needs tfadv's batch normalization, as "
                    f'tfadv.models.convert(model, "bn") gives it; received {layer.path!r}'
                )
        if not layers:
            raise ValueError("RunningStatistics needs a model with batch normalization")

    def on_epoch_begin(self, epoch, logs=None):
        training = installed(self)
        use = epoch >= self.params["epochs"] - self.last_epochs
        if training.step.running_statistics != use:
            training.step.running_statistics = use
            training.install()
