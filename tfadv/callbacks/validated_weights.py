import contextlib
import warnings

import keras
import numpy as np

from tfadv.callbacks.neighbours import neighbours
from tfadv.training.checkpoints import exchange_averages


class ValidatedWeights(keras.callbacks.Callback):
    """Base of the callbacks that look at a model between epochs.

    They see the weights that Keras's validation sees: with `keras.callbacks.SwapEMAWeights` in the
    same `fit`, wherever it stands, the moving averages of an optimizer with `use_ema=True`.
    Without it Keras validates the weights that train, and so do they; only after `fit` does Keras
    put the averages into the model.

    If another callback changes them between the validation and here, which cannot be done again, a
    warning says so.
    """

    def __init__(self):
        super().__init__()
        self._validated = None

    def on_epoch_begin(self, epoch, logs=None):
        self._validated = None

    def on_test_batch_begin(self, batch, logs=None):
        if self._validated is None:
            self._validated = self._last_weights()

    @contextlib.contextmanager
    def validated_weights(self):
        """Puts them into the model; yields whether they are averages.

        The optimizer then has the weights that train in the place of the averages.
        """
        swaps = [
            each for each in neighbours(self) if isinstance(each, keras.callbacks.SwapEMAWeights)
        ]
        # Between epochs, `swap_on_epoch=True` has done it for what comes after it.
        missing = bool(swaps) and not any(swap._ema_weights_in_model for swap in swaps)
        if missing:
            exchange_averages(self.model.optimizer)
        try:
            self._compare()
            yield bool(swaps)
        finally:
            if missing:
                exchange_averages(self.model.optimizer)

    def _last_weights(self):
        variables = self.model.trainable_variables
        return variables[-1].numpy() if variables else None

    def _compare(self):
        known, self._validated = self._validated, None
        if known is None:
            return
        # Keras's own exchange rounds.
        size = np.abs(known).max(initial=0.0)
        if not np.allclose(known, self._last_weights(), rtol=0, atol=1e-4 * float(size)):
            warnings.warn(
                f"{type(self).__name__} sees other weights than Keras's validation of this epoch: "
                "another callback changed them in between (for averages of weights, "
                "keras.callbacks.SwapEMAWeights lets both see the same)",
                stacklevel=4,
            )
