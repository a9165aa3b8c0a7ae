import os
import re

import keras

from tfadv import arguments, distributed
from tfadv.event_files import EventFile

_EVALUATED = re.compile(r"val_(\w+?)_(accuracy|success)(_clean_branch)?")
_TAGS = {"accuracy": "robust_accuracy", "success": "attack_success"}


class TrainingScalars(keras.callbacks.Callback):
    """Writes the logs of every epoch to TensorBoard, against the number of updates; on rank 0.

    What belongs to a domain becomes a TensorBoard run of its own, with tags that all share, so that
    one chart compares them:

    - `{log_dir}/train`: `learning_rate`, `loss`, `accuracy`, `attack_success`, of several workers
      `communication_share` (of the time, waiting for the slowest included), and all other logs
    - `{log_dir}/adv`, `{log_dir}/clean`: `loss` and `accuracy` of the domain's images
    - `{log_dir}/validation`: of `RobustEvaluation`, for each number of steps, `robust_accuracy/
      pgd10` and `attack_success/pgd10`, and `robust_accuracy/clean` of clean images; of
      `validation_data`, `loss` and so on
    - `{log_dir}/validation/clean`: the same through the clean branch of a mixture

    Epochs can be long: with an integer `update_freq` the means over the epoch so far are written
    within it as well, as `within_epochs/loss` and so on of the same runs.

    The step is `optimizer.iterations`, which goes on counting in a resumed training; what a killed
    training wrote after the checkpoint is then struck out. Put it behind the callbacks that add to
    the logs and before `Checkpoint`, so that no epoch with a checkpoint lacks its scalars.

    Args:
        log_dir: String or path, the run's directory.
        update_freq: `"epoch"`, or an integer, after how many updates of an epoch to write.

    Raises:
        ValueError: If `update_freq` is neither.
    """

    def __init__(self, log_dir, update_freq="epoch"):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        if update_freq != "epoch":
            update_freq = arguments.integer('update_freq, unless "epoch",', update_freq, 1)
        self.update_freq = update_freq
        # Keras waits for the values of every update, unless no callback may read them.
        self.async_safe = update_freq == "epoch"
        self._due = None
        self._files = {}
        self._first_step = None

    def on_train_begin(self, logs=None):
        self._close()  # of a training that an exception ended
        self._first_step = self._step()
        if distributed.rank() == 0:
            self._file("train")  # a directory that cannot be written is known before training

    def on_epoch_begin(self, epoch, logs=None):
        self._due = self.update_freq

    def on_train_batch_end(self, batch, logs=None):
        # Not by the remainder: with `steps_per_execution` some batches are not announced.
        if self.update_freq != "epoch" and batch + 1 >= self._due:
            self._due = batch + 1 + self.update_freq
            # Not what a resumed training has behind it.
            if self._step() > self._first_step:
                self._write(logs, "within_epochs/")

    def on_epoch_end(self, epoch, logs=None):
        self._write(logs)

    def on_train_end(self, logs=None):
        self._close()

    def _write(self, logs, prefix=""):
        if distributed.rank() != 0:
            return
        step = self._step()
        values = {"learning_rate": self.model.optimizer.learning_rate, **(logs or {})}
        for name, value in values.items():
            run, tag = _place(name, values)
            self._file(run).scalar(prefix + tag, float(value), step)

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _file(self, run):
        if run not in self._files:
            self._files[run] = EventFile(os.path.join(self.log_dir, run), self._first_step)
        return self._files[run]

    def _close(self):
        for file in self._files.values():
            file.close()
        self._files = {}


def _place(name, logs):
    """The sub-run and the tag of a log."""
    evaluated = _EVALUATED.fullmatch(name)
    # Only an attack has a success beside its accuracy; a metric may be called val_top5_accuracy.
    kind, what, branch = evaluated.groups() if evaluated else (None, None, None)
    success = f"val_{kind}_success"
    if kind == "clean" or {success, f"{success}_clean_branch"} & logs.keys():
        return ("validation/clean" if branch else "validation"), f"{_TAGS[what]}/{kind}"
    domain, _, rest = name.partition("_")
    run = {"val": "validation", "adv": "adv", "clean": "clean"}.get(domain)
    return (run, rest) if run else ("train", name)
