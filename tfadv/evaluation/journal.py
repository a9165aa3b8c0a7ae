import json
import pathlib
import shutil
import uuid

import numpy as np

from tfadv import distributed


class Journal:
    """What an evaluation has found out of each image, in files, so that it can go on after a kill.

    Each worker appends a line for every batch to a file of its own, and reads those of all workers
    that it can see. A worker that was killed may leave half a line, which does not count. Files of
    another evaluation are not read.

    Args:
        directory: Of the files; made when there is something to keep.
        identity: Dictionary of plain values: all that the outcomes depend on.
    """

    def __init__(self, directory, identity):
        self.directory = pathlib.Path(directory)
        self._identity = json.loads(json.dumps(identity))
        # A file for each start: behind half a line nothing could be read.
        name = f"{distributed.rank():04d}-{uuid.uuid4().hex[:8]}.jsonl"
        self._path = self.directory / name

    def read(self, shape):
        """The outcomes that are known.

        Args:
            shape: Of the boolean array of one image.

        Returns:
            A dictionary, index of the image -> the array.
        """
        found, size = {}, int(np.prod(shape))
        for path in sorted(self.directory.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if not lines or _parsed(lines[0]) != {"identity": self._identity}:
                continue
            for line in lines[1:]:
                for index, bits in (_parsed(line) or {}).get("outcomes", []):
                    packed = np.frombuffer(bytes.fromhex(bits), np.uint8)
                    found[index] = np.unpackbits(packed, count=size).astype(bool).reshape(shape)
        return found

    def narrow(self, **values):
        """Adds plain values to what all outcomes depend on."""
        self._identity |= json.loads(json.dumps(values))

    def add(self, indices, outcomes):
        """Keeps the outcomes of a batch.

        Args:
            indices: Integers `[batch]`; below 0 for padding, which is left out.
            outcomes: Boolean array `[batch, ...]`.
        """
        packed = [
            [int(index), np.packbits(outcome.ravel()).tobytes().hex()]
            for index, outcome in zip(indices, outcomes, strict=True)
            if index >= 0
        ]
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            if not file.tell():
                file.write(json.dumps({"identity": self._identity}) + "\n")
            file.write(json.dumps({"outcomes": packed}) + "\n")

    def remove(self):
        """Removes the files, when the results that they lead to are safe; rank 0 alone does."""
        if distributed.rank() == 0:
            shutil.rmtree(self.directory, ignore_errors=True)


def _parsed(line):
    if not line.endswith("\n"):
        return None
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
