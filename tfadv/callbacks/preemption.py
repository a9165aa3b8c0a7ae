import signal

import keras

from tfadv import distributed, fits, launcher, signals, watchdog
from tfadv.callbacks.adversarial_training import installed


class Preemption(keras.callbacks.Callback):
    """Saves a checkpoint and stops training on SIGTERM.

    One worker's signal is enough: all of them agree on the update, in the collective operation that
    every update has, or at the end of the epoch. Rank 0 writes the checkpoint, and when it is
    there every worker ends with `SystemExit(75)`, a status (EX_TEMPFAIL) that asks to be started
    again. A second signal ends a worker at once, whatever TensorFlow is doing, and so does a signal
    after training.

    The wait is at most one update and a checkpoint. With accumulated steps it is one of the
    update's parts: the update is then abandoned on all workers, the checkpoint is that of the last
    whole update, and a resumed training makes the update from its beginning, with the same bits.
    (Other workers than the one with the signal hear of it through the watchdog, within some
    seconds. Without one they make all parts of their update.) In an epoch's end, evaluations and
    all, there is no wait if the checkpoint before the epoch's last update was written
    (`Checkpoint(long_ends)`): that update and the epoch's end are then done again, and every worker
    needs a signal of its own.

    Args:
        checkpoint: The `Checkpoint` of the same `fit`, which stands before this callback.
        signals: Of the `signal` module.

    Raises:
        SystemExit: From `fit`, when the training was asked to stop.
        ValueError: From `fit`, without `AdversarialTraining`, or outside of the main thread.
    """

    def __init__(self, checkpoint, signals=(signal.SIGTERM,)):
        super().__init__()
        self.checkpoint = checkpoint
        self.signals = tuple(signals)
        self._asked = None
        self._ends = False  # the epoch, of which nothing but its last update could be lost
        self._listener = self._agreement = None
        self._in_parts = False

    def on_train_begin(self, logs=None):
        training = installed(self)
        training.lockstep.interrupted = self._stop_after
        self._agreement = training.step.agreement
        # Several steps in one execution are not told apart.
        self._in_parts = training.accumulation_steps > 1 and self.model.steps_per_execution == 1
        watchdog.when_stopping(self._request)
        if self._listener is not None:
            self._listener.close()  # of a training that an exception ended
        self._asked, self._ends = None, False
        self._listener = signals.Listener(self.signals, self._heard, self._handle, fits.Fit())
        # Nobody trains on before all of them can be asked: one that ended here would end the rest.
        distributed.total([0])

    def on_train_batch_end(self, batch, logs=None):
        agreed = self._agreement.agreed("stop")
        # After an epoch's last update its own checkpoint comes first.
        if agreed and not self.checkpoint.is_last(batch):
            self._stop_after(batch + 1)
        self._ends = self.checkpoint.is_last(batch) and self.checkpoint.is_behind_by_one()
        if self._ends and self._asked is not None:
            self._leave(self._asked)

    def on_epoch_end(self, epoch, logs=None):
        self._ends = False
        # All workers meet here, whoever was asked.
        if distributed.total([self._asked is not None])[0]:
            self._stop()

    def on_train_end(self, logs=None):
        self._listener.close()
        self._listener = None

    def _heard(self, number):
        """In another thread, while the main one may be in an update."""
        self._asked = number
        self._request()
        watchdog.spread_stop()

    def _request(self):
        self._agreement.ask("stop")
        if self._in_parts:
            self._agreement.hurry()

    def _handle(self, number, frame):
        """In the main thread, between two operations of Python's."""
        self._asked = number
        self._request()
        self._listener.release()
        if self._ends:
            self._leave(number)

    def _stop_after(self, step):
        self.checkpoint.write(step)
        self._stop()

    def _stop(self):
        # Whoever ends first takes the others along, so all wait until the checkpoint is written.
        numbers = distributed.gather_object(self._asked)
        self._leave(next(number for number in numbers if number is not None))

    def _leave(self, number):
        if distributed.rank() == 0:
            name = signal.Signals(number).name
            print(f"\nstopped by {name}, to be resumed from {self.checkpoint.path}", flush=True)
        self._listener.leave()
        launcher.report_status(launcher.RESUME)
        raise SystemExit(launcher.RESUME)
