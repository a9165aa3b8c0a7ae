import json
import os
import pathlib
import time

import keras

from tfadv import distributed, whole_files


class RunLog(keras.callbacks.Callback):
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
        self._first_epoch: int | None = None
        self._began = self._epoch_began = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._first_epoch = None
        if distributed.rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                self._strike_out(self._step())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch_began = time.monotonic()
        if self._first_epoch is None:
            self._first_epoch, self._began = epoch, self._epoch_began
        elif self.print_time_left and distributed.rank() == 0:
            # Here, because Keras ends the line of an epoch only after `on_epoch_end`. The mean is
            # over the epochs of this process, including the first one with its compilation.
            mean = (self._epoch_began - self._began) / (epoch - self._first_epoch)
            print(f"about {_duration(mean * (self.params['epochs'] - epoch))} left", flush=True)

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

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _strike_out(self, step):
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            whole_files.write_text(self.path, "".join(kept))


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


def _duration(seconds):
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
