import os
import re

import keras

from tfadv import arguments, distributed
from tfadv.event_files import EventFile

_EVALUATED = re.compile(r"val_(\w+?)_(accuracy|success)(_clean_branch)?")
_TAGS = {"accuracy": "accuracy", "success": "attack_success"}


class TrainingScalars(keras.callbacks.Callback):
    """Writes the logs of every epoch to TensorBoard, by the number of updates, on rank 0.

    Each domain has its own TensorBoard run, and the runs share their tags, so that one chart
    compares them:

    - `{log_dir}/train`: `learning_rate`, `loss`, `accuracy`, `attack_success`, with several workers
      `communication_share` (of the time, including the wait for the slowest), and all other logs
    - `{log_dir}/train/adv`, `{log_dir}/train/clean`: `loss` and `accuracy` of the domain's images
    - `{log_dir}/validation`: from `RobustEvaluation` `accuracy/clean` of clean images, and for each
      number of steps `accuracy/pgd10` and `attack_success/pgd10`; from `validation_data` `loss` and
      so on
    - `{log_dir}/validation/clean_branch`: the same through the clean branch of a mixture

    Epochs can be long: with an integer `update_freq` the means over the epoch so far are written
    within it as well, as `within_epochs/loss` and so on.

    The step is `optimizer.iterations`, which a resumed training goes on counting; what a killed
    training wrote after the checkpoint is then struck out. Put this callback after those that add
    to the logs and before `Checkpoint`, so that every epoch with a checkpoint has its scalars.

    Args:
        log_dir: String or path, the directory of the run.
        update_freq: `"epoch"`, or an integer: write after every so many updates of an epoch too.

    Raises:
        ValueError: If `update_freq` is neither.

    Example:

    ```python
    model.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.TrainingScalars("runs/x", update_freq=100),
    ])
    ```
    """

    def __init__(self, log_dir: str | os.PathLike, update_freq: str | int = "epoch") -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.update_freq = update_freq
        self._every = None
        if update_freq != "epoch":
            self._every = arguments.integer('update_freq, unless "epoch",', update_freq, 1)
        # Keras waits for the values of every update, unless no callback may read them.
        self.async_safe = self._every is None
        self._due = self._first_step = 0
        self._files: dict[str, EventFile] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.on_train_end()  # of a training that an exception ended
        self._first_step = self._step()
        if distributed.rank() == 0:
            self._file("train")  # so that a directory that cannot be written fails before training

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._due = self._every or 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Not by the remainder: with `steps_per_execution` some batches are not announced.
        if self._every is not None and batch + 1 >= self._due:
            self._due = batch + 1 + self._every
            # Not for the updates that a resumed training passes over.
            if self._step() > self._first_step:
                self._write(logs, "within_epochs/")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._write(logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _write(self, logs, prefix=""):
        if distributed.rank() != 0:
            return
        step = self._step()
        values = {"learning_rate": self.model.optimizer.learning_rate, **(logs or {})}
        for name, value in values.items():
            run, tag = _run_and_tag(name, values)
            self._file(run).scalar(prefix + tag, float(value), step)

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _file(self, run):
        if run not in self._files:
            directory = os.path.join(self.log_dir, run)
            self._files[run] = EventFile.shared(directory, self._first_step, self.params)
        return self._files[run]


def _run_and_tag(name, logs):
    """The sub-run and the tag of a log."""
    evaluated = _EVALUATED.fullmatch(name)
    kind, value, branch = evaluated.groups() if evaluated else (None, None, None)
    # Only an attack has a success beside its accuracy; a metric may be called val_top5_accuracy.
    success = f"val_{kind}_success"
    if kind == "clean" or {success, f"{success}_clean_branch"} & logs.keys():
        run = "validation/clean_branch" if branch else "validation"
        return run, f"{_TAGS[value]}/{kind}"
    domain, _, rest = name.partition("_")
    run = {"val": "validation", "adv": "train/adv", "clean": "train/clean"}.get(domain)
    return (run, rest) if run else ("train", name)
