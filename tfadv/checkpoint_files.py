"""Checkpoints as files: their names, their checksums, and which is the newest whole one.

A checkpoint is a `.keras` file that any Keras program loads. Such a file is a zip archive. Its
comment (`unzip -z` shows it) is a line of JSON with what Keras does not save, and the SHA-256 of
that and of all bytes before it. (If that were a fourth member of the archive, Keras would unpack
all of the archive to the disk whenever it loads the model.)
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.keras")
_LONGEST = 2**16 - 1  # bytes of a comment, whose length is the end record's last two


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come, and its state outside of the model and the optimizer.

    Attributes:
        epoch: Integer, finished epochs.
        step: Integer, finished updates of the epoch after those.
        workers: Integer, how many workers there were.
        sums: Dictionary, name -> nested lists of numbers: what `AdversarialStep.sums` was after
            `step` updates; None at the end of an epoch, when every sum starts again.
        averaged: Boolean, whether the optimizer's averages of the weights and the weights are
            exchanged: the averages are in the file's model, the training weights in its optimizer.

    Example:

    ```python
    progress = tfadv.training.Progress(epoch=3, step=120)
    print(progress)  # epoch 3 and 120 updates
    ```
    """

    epoch: int = 0
    step: int = 0
    workers: int = 1
    sums: dict | None = None
    averaged: bool = False

    def __str__(self):
        epochs = f"epoch {self.epoch}" if self.epoch else ""
        if not self.step:
            return epochs
        updates = f"{self.step} update{'' if self.step == 1 else 's'}"
        return f"{epochs} and {updates}" if epochs else updates


def name(epoch: int, step: int = 0) -> str:
    """The name of a checkpoint after finished epochs and updates of the next epoch."""
    return f"epoch-{epoch:04d}" + (f"-step-{step:06d}" if step else "") + ".keras"


def find(directory: str | os.PathLike) -> dict[tuple[int, int], pathlib.Path]:
    """Finds a directory's checkpoints: (finished epochs, updates) -> path, oldest first."""
    paths = {}
    for path in pathlib.Path(directory).glob("epoch-*.keras"):
        match = _NAME.fullmatch(path.name)
        if match:
            paths[int(match[1]), int(match[2] or 0)] = path
    return dict(sorted(paths.items()))


def newest(directory: str | os.PathLike, report: Callable[[str], Any]) -> pathlib.Path | None:
    """Finds the newest whole checkpoint of a directory.

    Args:
        directory: String or path.
        report: Function of a line of text, called for every newer one that is damaged.

    Returns:
        Its path; None if there are no checkpoints at all.

    Raises:
        ValueError: If all of them are damaged. Whether to start again is the user's decision.
    """
    paths, problems = find(directory), []
    for path in reversed(paths.values()):
        try:
            verify(path)
        except ValueError as error:
            problems.append(str(error))
        else:
            for problem in problems:
                report(f"passed over {problem}")
            return path
    if problems:
        raise ValueError(
            f"no checkpoint in {directory} is whole; received {len(problems)}: {problems[0]}"
        )
    return None


def stamp(path: str | os.PathLike, progress: Progress, generators: list) -> None:
    """Adds to a saved model how far its training is, and the checksum.

    Args:
        path: Path of a `.keras` file that Keras has just written.
        progress: A `Progress`.
        generators: Nested lists, the states of the model's random generators.

    Raises:
        ValueError: If that takes more bytes than such a file has room for.
    """
    record = {**dataclasses.asdict(progress), "generators": generators}
    with open(path, "r+b") as file:
        size = os.stat(path).st_size
        length = len(_comment(record, "0" * 64))
        if length > _LONGEST:
            raise ValueError(
                "metrics must be smaller to be kept within an epoch: the states of all may take "
                f"{_LONGEST} bytes of JSON; received {length}"
            )
        file.seek(size - 2)
        file.write(struct.pack("<H", length))
        file.write(_comment(record, _sha256(file, size, record)))


def read(path: str | os.PathLike) -> tuple[Progress, list]:
    """Reads what `stamp` wrote into a file: a `Progress`, and the states of random generators.

    Raises:
        ValueError: If the file is no archive, or holds no such record.
    """
    record, _ = _record(path)
    generators = record.pop("generators")
    del record["sha256"]
    return Progress(**record), generators


def is_complete(path: str | os.PathLike) -> bool:
    """Whether a file has a beginning, an end and a record, without reading all of it."""
    try:
        return bool(_record(path))
    except ValueError:
        return False


def verify(path: str | os.PathLike) -> None:
    """Reads all of a checkpoint.

    Raises:
        ValueError: Naming it, if it is not what was written.
    """
    record, length = _record(path)
    expected = record.pop("sha256")
    with open(path, "rb") as file:
        actual = _sha256(file, os.stat(path).st_size - length, record)
    if actual != expected:
        raise ValueError(f"{path}: its SHA-256 is {actual[:12]}..., and was {expected[:12]}...")


def _record(path):
    """The record, and the length of the comment that holds it."""
    try:
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        record = json.loads(comment)["tfadv"]
        # Files of earlier versions lack `averaged`.
        if {*record, "averaged"} != {*Progress.__dataclass_fields__, "generators", "sha256"}:
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: it holds no record of a training") from None
    return record, len(comment)


def _comment(record, sha256):
    return json.dumps({"tfadv": {**record, "sha256": sha256}}).encode()


def _sha256(file, length, record):
    """The checksum of a record and of a file's first bytes; leaves the file after them."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    file.seek(0)
    while length:
        data = file.read(min(length, 2**20))
        if not data:
            break
        digest.update(data)
        length -= len(data)
    return digest.hexdigest()
