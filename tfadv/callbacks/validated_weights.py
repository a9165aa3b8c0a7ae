import contextlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from tfadv import keras_internals
from tfadv.training.checkpoints import exchange_averages


class ValidatedWeights(keras.callbacks.Callback):
    """Base of the callbacks that look at a model between epochs.

    They see the weights that Keras's validation sees: with `keras.callbacks.SwapEMAWeights` in the
    same `fit`, wherever it stands, the moving averages of an optimizer with `use_ema=True`. Without
    it Keras validates the weights that train, and so do they; Keras then puts the averages into the
    model only after `fit`.

    If another callback changes the weights for the validation alone, which cannot be repeated here,
    a warning says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._validated: np.ndarray | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._validated = None

    def on_test_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._validated is None:
            self._validated = self._last_weights()

    @contextlib.contextmanager
    def validated_weights(self) -> Iterator[bool]:
        """Puts the validated weights into the model, and yields whether they are averages.

        The optimizer then has the weights that train in the place of the averages.
        """
        callbacks = keras_internals.callbacks_of_fit(self)
        swaps = [each for each in callbacks if isinstance(each, keras.callbacks.SwapEMAWeights)]
        # Between epochs, `swap_on_epoch=True` has done it for what comes after it.
        missing = bool(swaps) and not any(map(keras_internals.has_swapped, swaps))
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
        # Keras's own exchange rounds. NumPy 1 cannot compare bfloat16 with a tolerance.
        before, now = (np.asarray(each, "float64") for each in (known, self._last_weights()))
        if not np.allclose(before, now, rtol=0, atol=1e-4 * np.abs(before).max(initial=0.0)):
            warnings.warn(
                f"{type(self).__name__} sees other weights than Keras's validation of this epoch: "
                "another callback changed them in between (for averages of weights, "
                "keras.callbacks.SwapEMAWeights lets both see the same)",
                stacklevel=4,
            )
