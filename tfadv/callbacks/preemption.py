import signal

import keras

from tfadv import distributed, launcher
from tfadv.callbacks.adversarial_training import installed


class Preemption(keras.callbacks.Callback):
    """Ends a training that a signal asks to stop, behind a checkpoint and between two updates.

    One worker's signal is enough: all of them agree on the update, in the collective operation that
    every update has, or at the end of the epoch. Rank 0 writes the checkpoint, and when it is
    there every worker ends with `SystemExit(75)`, a status (EX_TEMPFAIL) that asks to be started
    again. A second signal ends a worker at once, and so does a signal after training.

    The wait is at most one update and a checkpoint. In an epoch's end, evaluations and all, there
    is none if the checkpoint before the epoch's last update was written (`Checkpoint(long_ends)`):
    that update and the epoch's end are then done again, and every worker needs a signal of its own.
    Signals reach a process in Python's main thread, where `fit` must run.

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
        self._previous = {}

    def on_train_begin(self, logs=None):
        installed(self)
        self._asked, self._ends = None, False
        self._previous = {
            number: signal.signal(number, self._ask)
            for number in self.signals
            if signal.getsignal(number) != signal.SIG_IGN  # as a shell's background has Ctrl-C
        }
        # Nobody trains on before all of them can be asked: one that ended here would end the rest.
        distributed.total([0])

    def on_train_batch_begin(self, batch, logs=None):
        if self._asked is not None and not self.checkpoint.is_last(batch):
            installed(self).step.requests.ask("stop")

    def on_train_batch_end(self, batch, logs=None):
        if installed(self).step.requests.agreed("stop"):
            self.checkpoint.write(batch + 1)
            self._stop()
        self._ends = self.checkpoint.is_last(batch) and self.checkpoint.is_behind_by_one()
        if self._ends and self._asked is not None:
            self._leave(self._asked)

    def on_epoch_end(self, epoch, logs=None):
        self._ends = False
        # All workers meet here, whoever was asked.
        if distributed.total([self._asked is not None])[0]:
            self._stop()

    def on_train_end(self, logs=None):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self._asked = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)  # which needs no Python: an update may be long
        if self._ends:
            self._leave(number)

    def _stop(self):
        # Whoever ends first takes the others along, so all wait until the checkpoint is written.
        numbers = distributed.gather_object(self._asked)
        self._leave(next(number for number in numbers if number is not None))

    def _leave(self, number):
        if distributed.rank() == 0:
            name = signal.Signals(number).name
            print(f"\nstopped by {name}, to be resumed from {self.checkpoint.path}", flush=True)
        launcher.report_status(launcher.RESUME)
        raise SystemExit(launcher.RESUME)
