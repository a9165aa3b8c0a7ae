import json
import os
import pathlib
import re
import shutil

import keras

from tfadv import distributed
from tfadv.attacks import arguments
from tfadv.training import checkpoints


class Checkpoint(keras.callbacks.Callback):
    """Saves the model with its optimizer after every epoch, on rank 0.

    Files are written whole or not at all: `epoch-0001.keras`, of which the last few stay, and
    `best.keras`, of which `best.json` says what it is. Each is a Keras model that any program can
    load.

    Args:
        directory: Of the files.
        monitor: Name in the logs; the epoch with the highest value is the best. Epochs without it
            do not compete.
        keep: Integer, how many of the last stay (10 in the pipeline).

    Raises:
        ValueError: If `keep` is no such number.
    """

    def __init__(self, directory, monitor="val_pgd10_accuracy", keep=10):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.monitor = monitor
        self.keep = arguments.integer("keep", keep, 1)
        self._record = self.directory / "best.json"

    def on_epoch_end(self, epoch, logs=None):
        if distributed.rank() != 0:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"epoch-{epoch + 1:04d}.keras"
        checkpoints.save(self.model, path)
        value = (logs or {}).get(self.monitor)
        # Read from its file, so that a continued run competes with what came before.
        if value is not None and value > self._best():
            self._keep_best(path, {"epoch": epoch + 1, self.monitor: float(value)})
        saved = sorted(
            p for p in self.directory.iterdir() if re.fullmatch(r"epoch-\d+\.keras", p.name)
        )
        for old in saved[: -self.keep]:
            old.unlink()

    def _best(self):
        if not self._record.is_file():
            return float("-inf")
        return json.loads(self._record.read_text(encoding="utf-8")).get(self.monitor, float("-inf"))

    def _keep_best(self, path, record):
        temporary = self.directory / ".best.tmp"
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)  # a second name: no second write, no space
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(self.directory / "best.keras")
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
        temporary.replace(self._record)
