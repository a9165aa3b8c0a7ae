import signal
from collections.abc import Iterable

import keras

from tfadv import distributed, keras_internals, launcher, watchdog
from tfadv.callbacks.adversarial_training import installed
from tfadv.callbacks.checkpoint import Checkpoint
from tfadv.signals import Listener


class Preemption(keras.callbacks.Callback):
    """Saves a checkpoint and stops training on SIGTERM.

    A signal to one worker is enough: all agree on the update after which to stop, in the collective
    operation of every update or at the end of the epoch. Rank 0 writes the checkpoint, and then
    every worker ends with `SystemExit(75)`, a status (EX_TEMPFAIL) that asks to be started again. A
    second signal ends a worker at once, whatever TensorFlow is doing, and so does a signal after
    training.

    This takes at most one update and a checkpoint. With accumulated steps it takes one part of the
    update: all workers then abandon the update, the checkpoint is that of the last whole update,
    and a resumed training makes the update from its beginning, with the same bits. (Workers without
    the signal hear of it through the watchdog, within seconds. Without a watchdog they make all
    parts of their update.) At the end of an epoch, with its evaluations, there is no wait if a
    checkpoint was saved before the epoch's last update (`Checkpoint(long_ends)`): a resumed
    training repeats that update and the end of the epoch. In this case every worker needs its own
    signal.

    Args:
        checkpoint: The `Checkpoint` of the same `fit`, which stands before this callback.
        signals: The signals, from the `signal` module.

    Raises:
        SystemExit: From `fit`, after a signal.
        ValueError: From `fit`, without `AdversarialTraining`, or outside of the main thread.

    Example:

    ```python
    saving = tfadv.callbacks.Checkpoint("checkpoints")
    model.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        saving,
        tfadv.callbacks.Preemption(saving),
    ])
    ```
    """

    def __init__(self, checkpoint: Checkpoint, signals: Iterable[int] = (signal.SIGTERM,)) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.signals = tuple(signals)
        self._signal: int | None = None  # the one that was received
        self._ends = False  # the epoch; at most its last update could be lost
        self._in_parts = False
        self._listener: Listener | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        training = installed(self)
        training.lockstep.interrupted = self._stop_after
        self._agreement = training.step.agreement
        # Several steps in one execution cannot be told apart.
        self._in_parts = training.accumulation_steps > 1 and self.model.steps_per_execution == 1
        watchdog.when_stopping(self._request)
        if self._listener is not None:
            self._listener.close()  # of a training that an exception ended
        self._signal, self._ends = None, False
        self._listener = Listener(
            self.signals, self._heard, self._handle, keras_internals.running_fit()
        )
        # Nobody trains before all can be asked to stop: a worker that a signal ended here would end
        # the others too.
        distributed.total([0])

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        agreed = self._agreement.agreed("stop")
        # After an epoch's last update its own checkpoint comes first.
        if agreed and not self.checkpoint.is_last(batch):
            self._stop_after(batch + 1)
        self._ends = self.checkpoint.is_last(batch) and self.checkpoint.is_behind_by_one()
        if self._ends and self._signal is not None:
            self._leave(self._signal)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._ends = False
        # All workers meet here, whichever of them got the signal.
        if distributed.total([self._signal is not None])[0]:
            self._stop()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._listener is not None:
            self._listener.close()

    def _heard(self, number):
        """In another thread, while the main one may be in an update."""
        self._signal = number
        self._request()
        watchdog.spread_stop()

    def _request(self):
        self._agreement.ask("stop")
        if self._in_parts:
            self._agreement.hurry()

    def _handle(self, number, frame):
        """In the main thread, between two operations of Python."""
        self._signal = number
        self._request()
        self._listener.release()
        if self._ends:
            self._leave(number)

    def _stop_after(self, step):
        self.checkpoint.write(step)
        self._stop()

    def _stop(self):
        # The first to end takes the others along, so all wait until the checkpoint is written and
        # the launcher, which runs where rank 0 does, can know.
        if distributed.rank() == 0:
            launcher.report_status(launcher.RESUME)
        numbers = distributed.gather_object(self._signal)
        self._leave(next(number for number in numbers if number is not None))

    def _leave(self, number):
        if distributed.rank() == 0:
            name = signal.Signals(number).name
            print(f"\nstopped by {name}, to be resumed from {self.checkpoint.path}", flush=True)
        self._listener.leave()
        launcher.report_status(launcher.RESUME)
        raise SystemExit(launcher.RESUME)
