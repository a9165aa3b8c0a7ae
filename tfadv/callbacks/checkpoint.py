import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import keras

from tfadv import arguments, checkpoint_files, distributed, keras_internals, whole_files
from tfadv.callbacks.adversarial_training import installed
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints


class Checkpoint(ValidatedWeights):
    """Saves the model with its optimizer after every epoch, and within long ones; on rank 0.

    Files are written whole or not at all, with a checksum: `epoch-0003.keras` after three epochs
    (only the last few are kept); `epoch-0003-step-000120.keras` 120 updates later, until there is a
    newer one; and `best.keras`, which `best.json` describes. Each is a Keras model that any
    program can load. `tfadv.training.checkpoints.restore` resumes a training from one, with the
    bits of a training that never stopped.

    Within an epoch, the workers agree on the update after which to save. All of them hold the same
    state, so rank 0 writes alone and nobody waits for it before the next update. Put this callback
    after those that add to the logs or write them, so that every epoch with a checkpoint has its
    logs.

    With `keras.callbacks.SwapEMAWeights` the model in each file has the averaged weights, as the
    validation saw them, and its optimizer has the weights that train in their place, from which
    `restore` goes on.

    Args:
        directory: String or path, the directory of the files.
        monitor: String, a name in the logs; the epoch with its highest value is the best. Epochs
            without it do not compete.
        keep: Integer, how many of the files after an epoch to keep (10 in the pipeline).
        minutes: Number above 0: save within an epoch after so many minutes without a checkpoint,
            which needs `AdversarialTraining` before this callback; None never does.
        long_ends: Function of the epoch, from 0, that says whether its end takes long, for example
            because of an evaluation. If `minutes` is given, such an epoch is also saved before its
            last update, so that a training stopped in its end loses only that update.

    Attributes:
        path: Path of the last checkpoint, or of the one within an epoch from which this training
            was resumed; None before.

    Raises:
        ValueError: If `keep` or `minutes` is not such a number; and from `fit`, with
            `SwapEMAWeights(swap_on_epoch=True)`, and, within an epoch, if the states of the
            compiled metrics take more than 64 KiB as JSON.
        OSError: From `fit`, if a file cannot be written; older files stay.

    Example:

    ```python
    model.fit(images, labels, epochs=2, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.Checkpoint("checkpoints", monitor="adv_accuracy", minutes=10),
    ])
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        monitor: str = "val_pgd10_accuracy",
        keep: int = 10,
        minutes: float | None = None,
        long_ends: Callable[[int], bool] | None = None,
    ) -> None:
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.monitor = monitor
        self.keep = arguments.integer("keep", keep, 1)
        self.minutes = minutes
        if minutes is not None:
            self.minutes = arguments.positive("minutes", minutes, "None for never")
        self.long_ends = long_ends or (lambda epoch: False)
        # Without a clock nothing happens after an update, and Keras need not wait for it.
        self.async_safe = minutes is None
        self._record = self.directory / "best.json"
        self.path: pathlib.Path | None = None
        self._epoch = 0
        self._written_at = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        for each in keras_internals.callbacks_of_fit(self):
            if isinstance(each, keras.callbacks.SwapEMAWeights) and each.swap_on_epoch:
                # It rounds the weights between epochs, and drops them after the last.
                raise ValueError(
                    "Checkpoint needs SwapEMAWeights(swap_on_epoch=False) to save the weights that "
                    "train besides their averages, which tfadv's callbacks see either way; "
                    "received True"
                )
        self.path = None
        self._written_at = time.monotonic()
        if self.minutes is not None:
            resumed = installed(self).progress
            if resumed is not None and resumed.step:
                # Not written again, which would look like progress to a supervisor.
                self.path = self._path(resumed.epoch, resumed.step)
        if distributed.rank() == 0:
            # Only here: a directory that vanishes during training is not created again.
            self.directory.mkdir(parents=True, exist_ok=True)
            whole_files.remove_leftovers(self.directory)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self.minutes is not None and distributed.rank() == 0 and not self.is_last(batch):
            if time.monotonic() - self._written_at >= 60 * self.minutes:
                installed(self).step.agreement.ask("checkpoint")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.minutes is None:
            return
        # A request before an update that a resumed training passes over is agreed on later. After
        # the last update of an epoch too nothing is written, but the request is over.
        agreed = installed(self).step.agreement.agreed("checkpoint")
        due = agreed or (self.is_last(batch + 1) and self.long_ends(self._epoch))
        if due and not self.is_last(batch):
            self.write(batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        value = (logs or {}).get(self.monitor)
        self._write(Progress(epoch + 1, 0, distributed.size()), value)

    def is_last(self, batch: int) -> bool:
        """Whether no update of the epoch comes after the one that begins with `batch`.

        Its checkpoint is that of the epoch, after the epoch's records: a training resumed before
        them would write them twice.
        """
        steps = self.params["steps"]
        return steps is not None and batch + self.model.steps_per_execution >= steps

    def is_behind_by_one(self) -> bool:
        """Whether the last checkpoint is the one before the last update of this epoch."""
        steps = self.params["steps"]
        return steps is not None and self.path == self._path(self._epoch, steps - 1)

    def write(self, step: int) -> None:
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
                # The best first: a training killed between the two comes back here from the
                # checkpoint before this one, and finds the best again. Its value is read from the
                # file, so that a resumed run competes with what came before.
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
                os.link(path, temporary)  # a second name takes no second write and no space
            except OSError:
                shutil.copyfile(path, temporary)
        whole_files.write_text(self._record, json.dumps(record) + "\n")

    def _remove_older(self, epoch, step):
        # Never a newer one: it can only be broken, as it was passed over, and must not count.
        paths = {
            key: path
            for key, path in checkpoint_files.find(self.directory).items()
            if key <= (epoch, step)
        }
        epochs = [key for key in paths if key[1] == 0]
        kept = {*epochs[-self.keep :], (epoch, step)}
        for key, path in paths.items():
            if key not in kept and checkpoint_files.is_complete(path):
                path.unlink()
