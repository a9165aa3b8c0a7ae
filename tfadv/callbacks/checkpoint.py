import dataclasses
import json
import os
import pathlib
import shutil
import time

import keras

from tfadv import arguments, checkpoint_files, distributed, whole_files
from tfadv.callbacks.adversarial_training import installed
from tfadv.callbacks.neighbours import neighbours
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints


class Checkpoint(ValidatedWeights):
    """Saves the model with its optimizer after every epoch, and within long ones; on rank 0.

    Files are written whole or not at all, with a checksum: `epoch-0003.keras` after three epochs,
    of which the last few stay; `epoch-0003-step-000120.keras` 120 updates later, until there is a
    newer one; and `best.keras`, of which `best.json` says what it is. Each is a Keras model that
    any program can load. `tfadv.training.checkpoints.restore` takes up a training from one, with
    the bits of a training that never stopped.

    Workers agree on the update after which they are within an epoch; as they all hold the same
    state, only rank 0 writes, and nobody waits for it before the next update. Put it behind the
    callbacks that add to the logs or write them, so that no epoch with a checkpoint lacks its logs.

    With `keras.callbacks.SwapEMAWeights` each file's model has the averaged weights, as the
    validation saw them, and its optimizer the weights that train in their place, from which
    `restore` goes on.

    Args:
        directory: Of the files.
        monitor: Name in the logs; the epoch with the highest value is the best. Epochs without it
            do not compete.
        keep: Integer, how many of those after an epoch stay (10 in the pipeline).
        minutes: Number above 0, after how many minutes without a checkpoint to write one within the
            epoch, which needs `AdversarialTraining` before it; None never does.
        long_ends: Function of the epoch, from 0, that says whether its end takes long, as with an
            evaluation; then, if `minutes` is given, one is written before its last update as well,
            so that what is stopped in its end loses no more than that.

    Attributes:
        path: Of the last checkpoint, or that within an epoch which this training was resumed from;
            None before.

    Raises:
        ValueError: If `keep` or `minutes` is no such number; and from `fit`, with
            `SwapEMAWeights(swap_on_epoch=True)`, and, within an epoch, for compiled metrics with
            states of more than 64 KiB as JSON.
        OSError: From `fit`, if a file cannot be written; those before it stay.
    """

    def __init__(
        self, directory, monitor="val_pgd10_accuracy", keep=10, minutes=None, long_ends=None
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.monitor = monitor
        self.keep = arguments.integer("keep", keep, 1)
        self.minutes = minutes
        if minutes is not None:
            self.minutes = arguments.positive("minutes", minutes, "None for never")
        self.long_ends = long_ends or (lambda epoch: False)
        # Without a clock nothing is done after an update, for which Keras then need not wait.
        self.async_safe = minutes is None
        self._record = self.directory / "best.json"
        self.path = None
        self._epoch = 0
        self._written_at = 0.0

    def on_train_begin(self, logs=None):
        for each in neighbours(self):
            if isinstance(each, keras.callbacks.SwapEMAWeights) and each.swap_on_epoch:
                # It rounds the weights between epochs, and drops them after the last.
                raise ValueError(
                    "Checkpoint needs SwapEMAWeights(swap_on_epoch=False) to save what trains "
                    "besides the averages, which tfadv's callbacks see either way; received True"
                )
        self.path = None
        self._written_at = time.monotonic()
        if self.minutes is not None:
            resumed = installed(self).progress
            if resumed is not None and resumed.step:
                # Not written again: it would look like progress to who starts a training again.
                self.path = self._path(resumed.epoch, resumed.step)
        if distributed.rank() == 0:
            # Only here: a directory that is gone in the middle of a training is not made again.
            self.directory.mkdir(parents=True, exist_ok=True)
            whole_files.remove_leftovers(self.directory)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.minutes is not None and distributed.rank() == 0 and not self.is_last(batch):
            if time.monotonic() - self._written_at >= 60 * self.minutes:
                installed(self).step.agreement.ask("checkpoint")

    def on_train_batch_end(self, batch, logs=None):
        if self.minutes is None:
            return
        # Asked before an update that a resumed training passes over, it is agreed on later: behind
        # an epoch's last one too, where nothing is written, but the request is over.
        agreed = installed(self).step.agreement.agreed("checkpoint")
        due = agreed or (self.is_last(batch + 1) and self.long_ends(self._epoch))
        if due and not self.is_last(batch):
            self.write(batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self.monitor)
        self._write(Progress(epoch + 1, 0, distributed.size()), value)

    def is_last(self, batch):
        """Whether no update of the epoch comes after the one that begins with `batch`.

        That one's checkpoint is the epoch's own, behind the epoch's records: a training resumed
        before them would write them twice.
        """
        steps = self.params["steps"]
        return steps is not None and batch + self.model.steps_per_execution >= steps

    def is_behind_by_one(self):
        """Whether the last checkpoint is the one before this epoch's last update."""
        steps = self.params["steps"]
        return steps is not None and self.path == self._path(self._epoch, steps - 1)

    def write(self, step):
        """Writes a checkpoint after `step` updates of this epoch, on rank 0."""
        sums = installed(self).step.sums if step else None
        self._write(Progress(self._epoch, step, distributed.size(), sums))

    def _write(self, progress, value=None):
        path = self._path(progress.epoch, progress.step)
        if distributed.rank() == 0 and path != self.path:
            with whole_files.aside(path) as temporary:
                with self.validated_weights() as averaged:
                    progress = dataclasses.replace(progress, averaged=averaged)
                    checkpoints.write(self.model, temporary, progress)
                # The best first. A training that is killed between the two comes back here, from
                # the checkpoint before this one, and then finds the best again.
                # Read from its file, so that a continued run competes with what came before.
                if value is not None and value > self._best():
                    self._keep_best(
                        temporary, {"epoch": progress.epoch, self.monitor: float(value)}
                    )
            self._remove_older(progress.epoch, progress.step)
        self.path = path
        self._written_at = time.monotonic()

    def _path(self, epoch, step):
        return self.directory / checkpoint_files.name(epoch, step)

    def _best(self):
        if not self._record.is_file():
            return float("-inf")
        return json.loads(self._record.read_text(encoding="utf-8")).get(self.monitor, float("-inf"))

    def _keep_best(self, path, record):
        with whole_files.aside(self.directory / "best.keras") as temporary:
            try:
                os.link(path, temporary)  # a second name: no second write, no space
            except OSError:
                shutil.copyfile(path, temporary)
        whole_files.write_text(self._record, json.dumps(record) + "\n")

    def _remove_older(self, epoch, step):
        # Never what is newer: it can only be broken, since it was passed over, and must not count.
        found = {
            key: path
            for key, path in checkpoint_files.find(self.directory).items()
            if key <= (epoch, step)
        }
        epochs = [key for key in found if key[1] == 0]
        staying = {*epochs[-self.keep :], (epoch, step)}
        for key, path in found.items():
            if key not in staying and checkpoint_files.is_complete(path):
                path.unlink()
