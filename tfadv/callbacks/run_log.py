import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import TextIO

import keras

from tfadv import distributed, launcher, units, whole_files


class _TimedEpochs(keras.callbacks.Callback):
    """Estimates the time left in a `fit`, without its first update.

    Attributes:
        time_left: A `tfadv.units.TimeLeft` whose unit is one epoch.
    """

    async_safe = True  # it reads no logs of batches, so Keras need not wait for them

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.time_left = units.TimeLeft()
        self._epoch = 0
        self._epoch_began = 0.0
        self._first_step = self._step()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if not self.time_left.has_begun and self._step() > self._first_step:
            self.time_left.begin(epoch)  # the number of updates in an epoch is unknown
        self._epoch, self._epoch_began = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        steps = self.params.get("steps")
        # A resumed training passes over some batches without an update.
        if steps and not self.time_left.has_begun and self._step() > self._first_step:
            self.time_left.begin(self._epoch + (batch + 1) / steps)

    def _step(self):
        return int(self.model.optimizer.iterations)


class RunLog(_TimedEpochs):
    """Writes a line of JSON after every epoch and prints an estimate of the time left, on rank 0.

    A line holds `epoch` (finished epochs), `step` (finished updates), `seconds` (of this epoch, in
    the process that finished it), `learning_rate` and every value of Keras's logs. Put it after
    the callbacks that add to them and before `Checkpoint`, so that every epoch with a checkpoint
    has its line. A resumed training strikes out what a killed one wrote after the checkpoint: the
    lines with more updates than `optimizer.iterations`.

    Args:
        path: Path of the file, to which lines are added.
        print_time_left: Whether to print a line after every epoch.

    Example:

    ```python
    model.fit(images, labels, epochs=2, callbacks=[tfadv.callbacks.RunLog("log.jsonl")])
    ```
    """

    def __init__(self, path: str | os.PathLike, print_time_left: bool = True) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        self.print_time_left = print_time_left

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        if distributed.rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                self._strike_out(self._step())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # Here, because Keras ends the line of an epoch only after `on_epoch_end`.
        left = self.time_left(epoch, self.params["epochs"])
        if left is not None and self.print_time_left and distributed.rank() == 0:
            print(f"about {units.in_words(left)} left", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if distributed.rank() != 0:
            return
        entry = {
            "epoch": epoch + 1,
            "step": self._step(),
            "seconds": round(time.monotonic() - self._epoch_began, 3),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(value) for name, value in (logs or {}).items()},
        }
        _append(self.path, json.dumps(entry) + "\n")

    def _strike_out(self, step):
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            whole_files.write_text(self.path, "".join(kept))


class EpochTable(_TimedEpochs):
    """Prints a row of a table after every epoch, on rank 0, in place of Keras's own output.

    A row shows the epoch, its time, an estimate of the time left, and the means over the epoch, in
    groups: all training images, those of each domain, and the evaluations. Accuracies and attack
    success are in percent. The header is printed again where a column is added, and after 40 rows.
    Losses by domain, the success of attacks in evaluations and `communication_share` have no
    columns; `RunLog` and `TrainingScalars` write them.

    Between the rows a terminal shows which update is being made. In a file a line says so after
    ten minutes without any other.

    Give `verbose=0` to `fit`, and put this callback after those that add to the logs.

    Args:
        columns: Names of logs that the first header has columns for, such as those of evaluations
            that later epochs end with; with them it is printed before the first epoch.
        stream: Text file; None for stdout.

    Example:

    ```python
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.EpochTable(),
    ])
    ```
    """

    def __init__(self, columns: Sequence[str] = (), stream: TextIO | None = None) -> None:
        super().__init__()
        self.columns = list(columns)
        self.stream = stream
        self._names: list[str] | None = None  # of the logs in the header above
        self._rows = self._width = 0
        self._said = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._names = None
        self._said = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self._names is None and self.columns and distributed.rank() == 0:
            self._head(self._shown(self.columns))
        self._progress(self._update(0))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._progress(self._update(batch + 1))

    def _update(self, done):
        steps = self.params.get("steps")
        if not steps:
            return f"update {done}"
        left = self.time_left(self._epoch + done / steps, self.params["epochs"])
        end = f", about {units.in_words(left)} left" if left else ""
        return f"update {done} of {steps}{end}"

    def evaluating(self, done: int, total: int | None) -> None:
        """Shows how far an evaluation is: the `progress` of `RobustEvaluation`."""
        self._progress(f"evaluation: batch {done}" + (f" of {total}" if total else ""))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if distributed.rank() != 0:
            return
        logs = logs or {}
        names = self._shown([*logs, *self.columns])
        if set(names) - set(self._names or ()) or self._rows == 40:
            self._head(names)
        self._rows += 1
        cells = {name: _cell(name, logs[name]) for name in self._names or () if name in logs}
        took = units.short(time.monotonic() - self._epoch_began)
        seconds = self.time_left(epoch + 1, self.params["epochs"])
        left = "" if seconds is None else units.short(seconds)
        self._say(self._line(f"{epoch + 1}/{self.params['epochs']}", took, left, cells))

    def _head(self, names):
        self._names, self._rows = names, 0
        self._say(self._line("epoch", "time", "left", {name: _label(name) for name in names}))

    def _shown(self, names):
        """The names of logs that have columns, in the order of the columns."""
        domains = {f"{domain}_accuracy" for domain in ("adv", "clean")} & set(names)
        shown = []
        for name in dict.fromkeys(names):
            top = re.fullmatch(r"(val_)?top(\d+)_accuracy", name)
            if not (
                name in ("communication_share", "learning_rate")
                or re.fullmatch(r"(adv|clean)_loss|val_\w+_success(_clean_branch)?", name)
                or (name == "accuracy" and domains)  # the mean of these
                or (top and int(top[2]) >= self._classes())  # always 100%
            ):
                shown.append(name)
        first = ["loss", "val_loss", "val_clean_accuracy", "adv_accuracy"]
        shown.sort(key=lambda name: first.index(name) if name in first else len(first))
        return sorted(shown, key=lambda name: _GROUPS.index(_group(name)))

    def _classes(self):
        shape = self.model.output_shape
        return shape[-1] if isinstance(shape, tuple) and isinstance(shape[-1], int) else 10**9

    def _line(self, epoch, took, left, cells):
        number = len(str(self.params["epochs"]))
        parts = [f"{epoch:>{max(5, 2 * number + 1)}}  {took:>6}  {left:>6}"]
        for group in _GROUPS:
            names = [name for name in self._names if _group(name) == group]
            if names:
                columns = (f"{cells.get(n, ''):>{max(6, len(_label(n)))}}" for n in names)
                parts.append("  ".join(columns))
        return " | ".join(parts).rstrip(" |")

    def _say(self, line):
        """Prints a line, over what `_progress` shows."""
        stream = self.stream or sys.stdout
        start = "\r" if self._width else ""
        print(f"{start}{line:<{self._width}}", file=stream, flush=True)
        self._width, self._said = 0, time.monotonic()

    def _progress(self, text):
        if distributed.rank() != 0:
            return
        stream, now = self.stream or sys.stdout, time.monotonic()
        line = f"{self._epoch + 1}/{self.params['epochs']}  {text}"
        if launcher.is_terminal(stream):
            if now >= self._said + 0.1:  # a terminal need not show every one of fast updates
                line = line[: launcher.columns() - 1]
                print(f"\r{line:<{self._width}}", end="", file=stream, flush=True)
                self._width, self._said = len(line), now
        elif now >= self._said + 600:
            self._say(line)


_GROUPS = ("train", "adv", "clean", "val")


def _group(name):
    """The group of a log; what has no prefix is about all training images."""
    if name == "attack_success":
        return "adv"
    return next((group for group in _GROUPS[1:] if name.startswith(f"{group}_")), "train")


def _label(name):
    """The head of a column: "val pgd10" for `val_pgd10_accuracy`, "success" for the attack's."""
    if name == "attack_success":
        return "success"
    branch = " (clean branch)" if name.endswith("_clean_branch") else ""
    words = name.removesuffix("_clean_branch").split("_")
    if words[-1] == "accuracy" and len(words) > 1 and words[0] not in ("adv", "clean"):
        words = words[:-1] if words != ["val", "accuracy"] else words
    return " ".join(words) + branch


def _cell(name, value):
    percent = name.removesuffix("_clean_branch").endswith(("accuracy", "success"))
    return f"{100 * value:.1f}%" if percent else f"{value:#.4g}"


def _step_of(line):
    try:
        return json.loads(line)["step"]
    except ValueError:  # the machine stopped in the middle of it
        return float("inf")


def _append(path, line):
    """Adds a line whole, or not at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    size = os.fstat(descriptor).st_size
    data = line.encode()
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError as error:
        if data:
            os.truncate(path, size)
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)
