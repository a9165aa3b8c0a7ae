"""Epochs and trainings that begin and end together on all workers."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv import distributed, keras_internals, watchdog
from tfadv.checkpoint_files import Progress
from tfadv.training import agreement
from tfadv.training.adversarial_step import AdversarialStep
from tfadv.training.agreement import TrainingError

# The watch over a training outside of the programs, which have their own. No callback hears of an
# exception that ends `fit`, so the next `fit` ends the watch of the one before.
_watch = contextlib.ExitStack()


def leave_epoch(model: keras.Model) -> None:
    """Ends the epoch of a `fit` on all workers, before a callback waits for them at its end.

    Args:
        model: A Keras model, which `AdversarialTraining` may train, before or after the callback.
    """
    training = getattr(model.train_function, "callback", None)
    if training is not None:
        training.lockstep.leave()


class Lockstep:
    """Keeps the workers of one `fit` in step.

    An update needs all workers, so none can go on alone. A worker whose data or training has ended
    takes part in one more collective operation to say so: the update that the others were making is
    void, and their epoch ends with the same update as this worker's. When training ends on one
    worker, at the end of an epoch or within it, it ends on all.

    Args:
        model: The model of the `fit`.
        params: Its parameters, as Keras passes them to callbacks.
        step: The `AdversarialStep`.
        stall_seconds, progress: As in `AdversarialTraining`.

    Attributes:
        interrupted: Function of the epoch's number of updates, called on all workers when a signal
            made one of them abandon its update; None if there is nothing to call.
    """

    def __init__(
        self,
        model: keras.Model,
        params: dict[str, Any],
        step: AdversarialStep,
        stall_seconds: float,
        progress: Progress | None,
    ) -> None:
        self.interrupted: Callable[[int], None] | None = None
        self._model = model
        self._step = step
        self._several = distributed.size() > 1
        self._validation = ValidationLogs(model)
        self._quiet = contextlib.ExitStack()
        self._steps = None  # of an epoch, if that is known and the same on all workers
        self._updates = 0  # of this epoch
        self._over = self._warned = False
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

    def begin_epoch(self, epoch: int) -> None:
        """Makes sure that all workers begin the same epoch, before its first update."""
        self._updates, self._over = 0, False
        if self._several:
            how = {"running_statistics": self._step.running_statistics}
            agreement.require_equal({"epoch": epoch + 1, **how}, TrainingError)

    def update(self, train: Callable, iterator: Any, batch: int) -> dict[str, tf.Tensor]:
        """Makes an update that all workers make, or ends the epoch if one of them does not.

        Args:
            train: Keras's train function.
            iterator: Its argument.
            batch: Number of the update in the epoch, from 0.

        Returns:
            What `train` returns.

        Raises:
            StopIteration: At the end of the epoch; or what the iterator raises there.
            TrainingError: If workers differ in what they must have in common.
        """
        try:
            logs = train(iterator)
        except (tf.errors.OutOfRangeError, StopIteration) as error:
            end = error
        else:
            end = None
        if end is not None:
            self.leave()
            raise end
        verdict = self._step.agreement.verdict()
        if verdict is None:
            return logs
        self._over = True
        self._obey(verdict)
        # Keras would warn that this worker's data have ended, which they have not.
        self._quiet.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        raise StopIteration

    def updated(self, batch: int) -> None:
        """Notes that an update has been made."""
        self._updates = batch + 1

    def leave(self) -> None:
        """Tells the others that this worker makes no further update in this epoch."""
        self._quiet.close()
        # If all know the number of updates, nobody waits for more.
        if self._several and not self._over and self._updates != self._steps:
            self._over = True
            model = self._model
            self._step.agreement.leave(stops=model.stop_training, eagerly=model.run_eagerly)
            self._obey(self._step.agreement.verdict())

    def validated(self, logs: dict | None) -> None:
        """Takes the results of this worker's own validation."""
        if self._several:
            self._validation.take(logs)

    def end_epoch(self, logs: dict | None) -> None:
        """Ends an epoch on all workers, and puts the values over all of them into its logs."""
        self.leave()
        if self._several:
            self._validation.average(logs)

    def end(self) -> None:
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
        # Keras reads `stop_training` after the last callback, and `History` comes after the user's:
        # there all workers take over what any of them decided.
        model, history = self._model, getattr(self._model, "history", None)
        if history is None:
            return

        def on_epoch_end(epoch, logs=None):
            type(history).on_epoch_end(history, epoch, logs)
            if distributed.total([model.stop_training])[0]:
                model.stop_training = True

        history.on_epoch_end = on_epoch_end

    def _obey(self, verdict):
        """Acts on what the workers that made an update void have reported."""
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
            raise agreement.no_batch(verdict["ended"])
        elif not self._warned:
            self._warned = True
            if distributed.rank() == 0:
                warnings.warn(
                    f"the data of {distributed.named(verdict['ended'])} ended after "
                    f"{self._updates} batches, and so did this epoch on all workers; the others "
                    "did not train on the rest of their data (this warning comes once)",
                    stacklevel=2,
                )


class ValidationLogs:
    """Gives every worker the `val_` logs over the validation images of all workers.

    Compiled metrics are those of all images: their states are added up, as `keras.Metric` intends.
    Other logs, of a model's own `test_step`, are means over the workers, weighted by their images.
    A worker that did not validate gets the logs of those that did.

    Args:
        model: A compiled Keras model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._mine: tuple[dict, list[np.ndarray], float] | None = None

    def take(self, logs: dict | None) -> None:
        """Takes the logs and metrics of this worker's validation, before another evaluation."""
        states = [variable.numpy() for variable in self._model.metrics_variables]
        # Keras counts the images of an evaluation in the loss it reports.
        counts = [float(m.count) for m in self._model.metrics if m.name == "loss"]
        self._mine = (dict(logs or {}), states, counts[0] if counts else 1.0)

    def average(self, logs: dict | None) -> None:
        """Puts the values over all workers into the logs of an epoch, on all workers."""
        mine, self._mine = self._mine, None
        gathered = [each for each in distributed.gather_object(mine) if each is not None]
        if not gathered or logs is None:
            return
        values = self._results([states for _, states, _ in gathered])
        weights = [images for _, _, images in gathered]
        for name in gathered[0][0]:
            if name not in values:
                values[name] = np.average([each[name] for each, _, _ in gathered], 0, weights)
            value = np.asarray(values[name])
            logs[f"val_{name}"] = float(value) if value.ndim == 0 else value

    def _results(self, states):
        variables = self._model.metrics_variables
        before = [variable.numpy() for variable in variables]
        for variable, *of_workers in zip(variables, *states, strict=True):
            # The first worker's if the states cannot be combined.
            combine = {"sum": np.sum, "mean": np.mean}.get(variable.aggregation, lambda a, _: a[0])
            variable.assign(combine(np.asarray(of_workers, np.float64), 0).astype(variable.dtype))
        results = self._model.get_metrics_result()
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return results
