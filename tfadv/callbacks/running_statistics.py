import math
import warnings

import keras
import numpy as np

from tfadv import arguments, distributed, keras_internals
from tfadv.callbacks.adversarial_training import installed
from tfadv.models import calling

# Medians over the channels of a layer: how far its moving mean may be off, in standard deviations
# of the batches, and by what factor its standard deviation. Where either was larger, accuracy on
# the moving statistics was half of that on the batches' or less; below, it was the same to a few
# percent (three convolutions on handwritten digits, momentum 0.9 to 0.999, 4 to 256 updates).
_FAR_MEAN = 0.3
_FAR_DEVIATION = 1.4


class RunningStatistics(keras.callbacks.Callback):
    """Trains the last epochs on the running statistics of batch normalization (Section 4.3).

    In these epochs batch normalization, tfadv's or Keras's, normalizes with its moving statistics,
    which stand still, while gamma and beta go on learning; so it behaves in training as it does in
    testing. Put it after `AdversarialTraining`. Inside subclassed models and layers it must be
    tfadv's, `tfadv.layers.BatchNormalization`, which has the variables of Keras's.

    Moving statistics need about `1 / (1 - momentum)` updates to reach the statistics of the
    batches: 10 at tfadv's momentum of 0.9, 100 at Keras's of 0.99. If they are still far away when
    the network is switched to them, which ruins it, a warning says so.

    Args:
        last_epochs: Integer, how many epochs (10 of the paper's 110).

    Raises:
        ValueError: If `last_epochs` is not an integer of at least 0; and from `fit`, without
            `AdversarialTraining`, for a model without batch normalization, or for one with Keras's
            inside a subclassed model or layer.

    Example:

    ```python
    model.fit(images, labels, epochs=3, callbacks=[
        tfadv.callbacks.AdversarialTraining(tfadv.attacks.PGD(epsilon=8, num_steps=10)),
        tfadv.callbacks.RunningStatistics(last_epochs=1),
    ])
    ```
    """

    def __init__(self, last_epochs: int = 10) -> None:
        super().__init__()
        self.last_epochs = arguments.integer("last_epochs", last_epochs, 0)
        self._layers: list[keras.layers.BatchNormalization] = []
        self._before: tuple[int, list[np.ndarray]] | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        installed(self)
        self._before = None
        self._layers = [
            layer
            for layer in keras_internals.flatten_layers(self.model)
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        if not self._layers:
            raise ValueError("RunningStatistics needs a model with batch normalization")
        calling.check_running_statistics(self.model)  # now, not in the last epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        training = installed(self)
        first = self.params["epochs"] - self.last_epochs
        use = epoch >= first
        if epoch == first - 1:
            self._before = (self._updates(), self._statistics())
        if training.step.running_statistics != use:
            if use and distributed.rank() == 0:
                self._compare(epoch)
            training.step.running_statistics = use
            training.install()

    def _updates(self):
        optimizer = keras_internals.inner_optimizer(self.model.optimizer)
        return int(optimizer.iterations) * (optimizer.gradient_accumulation_steps or 1)

    def _statistics(self):
        return [
            np.array([layer.moving_mean.numpy(), layer.moving_variance.numpy()])
            for layer in self._layers
        ]

    def _compare(self, epoch):
        """Warns of moving statistics that are far from those of the batches."""
        start, after = f"RunningStatistics trains from epoch {epoch + 1} on", self._statistics()
        if self._before is not None:
            first, before = self._before
            count = "the {} of the last epoch"
        else:
            # This `fit` begins with the switch: all updates before it moved them from 0 and 1.
            first, before = 0, [np.zeros_like(each) + [[0.0], [1.0]] for each in after]
            count = "the {} so far"
            if all(map(np.array_equal, before, after)):
                warnings.warn(
                    f"{start} moving statistics that no update has moved yet: last_epochs must "
                    "leave some epochs before them",
                    stacklevel=3,
                )
                return
        updates = self._updates() - first
        distances = [
            _distance(*statistics, layer.momentum**updates, layer.epsilon)
            for layer, *statistics in zip(self._layers, before, after, strict=True)
        ]
        sizes = [max(mean / _FAR_MEAN, math.log(off, _FAR_DEVIATION)) for mean, off in distances]
        worst = int(np.argmax(sizes))
        if sizes[worst] > 1:
            layer, (mean, off) = self._layers[worst], distances[worst]
            warnings.warn(
                f"{start} moving statistics that have not reached those of the batches: in "
                f"{layer.path!r} the mean is {mean:.2g} standard deviations off, and the standard "
                f"deviation by a factor of {off:.2g}. Give the layers a lower momentum than "
                f"{layer.momentum:g}, or more updates than {count.format(updates)}",
                stacklevel=3,
            )


def _distance(before, after, kept, epsilon):
    """How far moving statistics are from those of the batches, as medians over the channels.

    `after = kept * before + (1 - kept) * batches`, where `kept` is the momentum to the power of
    the number of updates, gives the mean of the batches' statistics, later ones weighted more.

    Returns:
        How far the moving mean is off in standard deviations, and the factor, of at least 1,
        between the standard deviations.
    """
    batches = after if kept >= 1 else after + (after - before) * (kept / (1 - kept))
    # Rounding may leave a variance below 0.
    variance, moving = np.maximum([batches[1], after[1]], 0) + epsilon
    mean = np.abs(after[0] - batches[0]) / np.sqrt(variance)
    deviation = np.abs(np.log(moving / variance)) / 2
    return float(np.median(mean)), float(np.exp(np.median(deviation)))
