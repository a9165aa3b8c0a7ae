"""Epochs and trainings that begin and end together on all workers."""

import contextlib
import os
import tempfile
import warnings

import tensorflow as tf

from tfadv import distributed, keras_internals, watchdog
from tfadv.training import agreement
from tfadv.training.faults import TrainingError
from tfadv.training.validation_logs import ValidationLogs

# The watch over a training outside of the programs, which have one of their own. An exception
# ends a `fit` without a word to its callbacks, so the next one ends the watch of the one before.
_watch = contextlib.ExitStack()


def leave_epoch(model):
    """Ends the epoch of a `fit` on all workers, before a callback waits for them at its end.

    Args:
        model: A Keras model, which `AdversarialTraining` may train, before or after the callback.
    """
    training = getattr(model.train_function, "callback", None)
    if training is not None and training.lockstep is not None:
        training.lockstep.leave()


class Lockstep:
    """Keeps the workers of one `fit` in step.

    An update needs all of them, so none can go on alone. A worker whose data or training has ended
    takes part in one more collective operation, in which it says so: the update that the others
    were making is void, and their epoch ends with the same update as this worker's. Where training
    ends on one worker, at an epoch's end or within it, it ends on all.

    Args:
        model: The model of the `fit`.
        params: Its parameters, as Keras gives them to callbacks.
        step: The `AdversarialStep`.
        stall_seconds, progress: As of `AdversarialTraining`.

    Attributes:
        interrupted: What a signal that made a worker abandon its update calls, on all workers: a
            function of the number of updates that the epoch has; None if there is nothing to call.
    """

    def __init__(self, model, params, step, stall_seconds, progress):
        self.interrupted = None
        self._model = model
        self._step = step
        self._several = distributed.size() > 1
        self._validation = ValidationLogs(model)
        self._quiet = contextlib.ExitStack()
        self._steps = None  # of an epoch, if that is known and the same on all workers
        self._updates = 0  # of this epoch
        self._over = self._said = False
        if not self._several:
            return
        self._compare(params, progress)
        _watch.close()
        path = os.path.join(tempfile.gettempdir(), f"tfadv-stalled-{os.getpid()}.log")
        runs = keras_internals.running_fit()
        _watch.enter_context(watchdog.watch(stall_seconds or 0, path, lasts=runs))
        if step.communication is not None:
            watchdog.waits_when(step.communication.waits)
        self._agree_after_all_callbacks()

    def begin_epoch(self, epoch):
        """Makes sure that all workers begin the same epoch, before its first update."""
        self._updates, self._over = 0, False
        if self._several:
            how = {"running_statistics": self._step.running_statistics}
            agreement.require_equal({"epoch": epoch + 1, **how}, TrainingError)

    def update(self, train, iterator, batch):
        """Makes an update that all workers make; ends the epoch if one of them does not.

        Args:
            train: Keras's train function.
            iterator: What it is called with.
            batch: Number of the update in the epoch, from 0.

        Returns:
            What it returns.

        Raises:
            StopIteration: At the end of the epoch; or what the iterator raises there.
            TrainingError: If workers differ in what they must have in common.
        """
        try:
            logs = train(iterator)
        except (tf.errors.OutOfRangeError, StopIteration) as error:
            ended = error
        else:
            ended = None
        if ended is not None:
            self.leave()
            raise ended
        verdict = self._step.agreement.verdict()
        if verdict is None:
            return logs
        self._over = True
        self._take(verdict)
        # Keras would say that this worker's data have ended, which they have not.
        self._quiet.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        raise StopIteration

    def updated(self, batch):
        """Takes note that an update has been made."""
        self._updates = batch + 1

    def leave(self):
        """Lets the others know that this worker makes no further update in this epoch."""
        self._quiet.close()
        # Where all know how many there are, nobody waits for more.
        if self._several and not self._over and self._updates != self._steps:
            self._over = True
            model = self._model
            self._step.agreement.leave(stops=model.stop_training, eagerly=model.run_eagerly)
            self._take(self._step.agreement.verdict())

    def validated(self, logs):
        """Takes what this worker's own validation found."""
        if self._several:
            self._validation.take(logs)

    def end_epoch(self, logs):
        """Ends an epoch on all workers, and gives its logs the values over all of them."""
        self.leave()
        if self._several:
            self._validation.average(logs)

    def end(self):
        """Ends the training on all workers."""
        if self._several:
            agreement.require_equal({"epoch": "none, since training has ended,"}, TrainingError)
            vars(getattr(self._model, "history", None) or self).pop("on_epoch_end", None)
            _watch.close()

    def _compare(self, params, progress):
        agreement.require_equal(
            {
                "epochs": params.get("epochs"),
                "progress": progress and (progress.epoch, progress.step),
                "compression": self._step.compression,
                "domains that are trained": " and ".join(self._step.meters.domains),
                **agreement.description(self._model),
            }
        )
        steps = distributed.gather_object(params.get("steps"))
        known = [number for number in steps if number is not None]
        if any(number != known[0] for number in known):
            raise ValueError(
                "steps per epoch must be the same on all workers; received "
                f"{distributed.by_worker(steps)} (give each worker as many batches: as many "
                "images, or steps_per_epoch)"
            )
        self._steps = known[0] if len(known) == len(steps) else None

    def _agree_after_all_callbacks(self):
        # Keras reads `stop_training` after the last callback, `History` or the progress bar after
        # it: there all workers take what any of them decided.
        model, history = self._model, getattr(self._model, "history", None)
        if history is None:
            return

        def on_epoch_end(epoch, logs=None):
            type(history).on_epoch_end(history, epoch, logs)
            if distributed.total([model.stop_training])[0]:
                model.stop_training = True

        history.on_epoch_end = on_epoch_end

    def _take(self, verdict):
        """Takes what the workers said that made an update void."""
        if verdict["abandoned"]:
            if self.interrupted is None:
                raise TrainingError(
                    f"{distributed.named(verdict['abandoned'])} abandoned an update on a signal; "
                    "Preemption must be among the callbacks of all workers"
                )
            self.interrupted(self._updates)
        if verdict["stops"]:
            self._model.stop_training = True
        elif len(verdict["ended"]) == distributed.size():
            return  # together
        elif not self._updates:
            raise TrainingError(
                "data must hold at least one batch for each worker and epoch; received none on "
                f"{distributed.named(verdict['ended'])}"
            )
        elif not self._said:
            self._said = True
            if distributed.rank() == 0:
                warnings.warn(
                    f"the data of {distributed.named(verdict['ended'])} ended after "
                    f"{self._updates} batches, and so did this epoch on all workers; what the "
                    "others had left was not trained on (said once)",
                    stacklevel=2,
                )
