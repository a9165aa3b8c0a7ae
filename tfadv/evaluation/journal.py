import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfadv import distributed


class Journal:
    """Keeps the outcome of each image in files, so that an evaluation can resume after a kill.

    Each worker appends a line for every batch to a file of its own, and reads the files of all
    workers that it can see. It ignores half a line, which a worker that was killed may leave, and
    files of evaluations with another identity. Of an attack of several runs it also keeps how far
    each image is.

    Args:
        directory: Path of the directory of the files, which is created with the first file.
        identity: Dictionary of plain values: everything that the outcomes depend on.

    Example:

    ```python
    evaluator = tfadv.evaluation.Evaluator(model, attack)
    journal = tfadv.evaluation.Journal("journal", {"model": "v1", **evaluator.identity})
    results = evaluator((test_images, test_labels), journal=journal)
    tfadv.evaluation.write_json("results.json", results)
    journal.remove()
    ```
    """

    def __init__(self, directory: str | os.PathLike, identity: dict[str, Any]) -> None:
        self.directory = pathlib.Path(directory)
        self._identity = json.loads(json.dumps(identity))
        # A new file for each start, because nothing can be appended to half a line.
        name = f"{distributed.rank():04d}-{uuid.uuid4().hex[:8]}.jsonl"
        self._path = self.directory / name

    def read(self, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Reads the outcomes that are known.

        Args:
            shape: Shape of the boolean array of one image.

        Returns:
            A dictionary, index of the image -> its array.
        """
        outcomes = {}
        for line in self._lines():
            for index, bits in line.get("outcomes", []):
                outcomes[index] = _unpacked(bits, shape)
        return outcomes

    def read_unfinished(self, shape: tuple[int, ...]) -> dict[int, tuple[np.ndarray, int]]:
        """Reads how far the other images are.

        Args:
            shape: Shape of the boolean array of one image.

        Returns:
            A dictionary, index of the image -> its array so far, and the number of its next run.
        """
        finished = self.read(shape)
        unfinished: dict[int, tuple[np.ndarray, int]] = {}
        for line in self._lines():
            for index, bits, run in line.get("unfinished", []):
                if index not in finished and run >= unfinished.get(index, (None, 0))[1]:
                    unfinished[index] = _unpacked(bits, shape), run
        return unfinished

    def read_costs(self) -> dict[tuple[str, int], list[float]]:
        """Reads what the batches cost.

        Returns:
            A dictionary, (name of the file, number of the line) -> the `cost` of `add`. (Several
            workers may read the same line.)
        """
        return {place: line["cost"] for place, line in self._places() if line.get("cost")}

    def _lines(self):
        return (line for _, line in self._places())

    def _places(self):
        for path in sorted(self.directory.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if not lines or _parsed(lines[0]) != {"identity": self._identity}:
                continue
            for number, line in enumerate(lines[1:], 1):
                yield (path.name, number), _parsed(line)

    def narrow(self, **values: Any) -> None:
        """Adds plain values to the identity."""
        self._identity |= json.loads(json.dumps(values))

    def add(
        self,
        indices: Iterable[int],
        outcomes: Iterable[np.ndarray],
        runs: Iterable[int] = (),
        cost: Sequence[float] = (),
    ) -> None:
        """Appends the outcomes of a batch.

        Args:
            indices: Integers `[batch]`; below 0 for padding, which is left out.
            outcomes: Boolean array `[batch, ...]`, or as many arrays.
            runs: Integers `[batch]`, the next run of each image; empty if they are finished.
            cost: Numbers that belong to the batch.
        """
        runs = list(runs)
        packed = [
            [int(index), np.packbits(outcome.ravel()).tobytes().hex(), *runs[place : place + 1]]
            for place, (index, outcome) in enumerate(zip(indices, outcomes, strict=True))
            if index >= 0
        ]
        line: dict[str, Any] = {"unfinished" if runs else "outcomes": packed}
        if cost:
            line["cost"] = list(cost)
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            if not file.tell():
                file.write(json.dumps({"identity": self._identity}) + "\n")
            file.write(json.dumps(line) + "\n")

    def remove(self) -> None:
        """Removes the files, once the results are safe; on rank 0 only."""
        if distributed.rank() == 0:
            shutil.rmtree(self.directory, ignore_errors=True)


def _unpacked(bits, shape):
    packed = np.frombuffer(bytes.fromhex(bits), np.uint8)
    flat = np.unpackbits(packed, count=int(np.prod(shape))).astype(bool)
    return flat.reshape(shape)


def _parsed(line):
    """A whole line as a dictionary; `{}` for half a line."""
    try:
        return json.loads(line) if line.endswith("\n") else {}
    except json.JSONDecodeError:
        return {}
