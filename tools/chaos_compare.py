"""Whether a training that was killed and resumed has left what one that never stopped leaves."""

import io
import json
import logging
import zipfile
from pathlib import Path

import h5py
import numpy as np
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

# What is measured in seconds differs between any two runs.
TIMES = ("seconds", "communication_share")


def compare(directory, expected):
    """Counts what differs between two runs' directories.

    Args:
        directory: Of a run that was killed and resumed.
        expected: Of one that never stopped.

    Returns:
        A dictionary of counts: `bits` compared in weights and optimizer variables of all models,
        `differing_bits`, `log_lines`, `points` of TensorBoard, and of what is not the same
        a list of texts, `differences`.
    """
    directory, expected = Path(directory), Path(expected)
    differences = []
    names = _files(expected)
    if _files(directory) != names:
        differences.append(f"files: {sorted(_files(directory) ^ names)}")
    bits = differing = 0
    for name in sorted(name for name in names if name.endswith(".keras")):
        try:
            found, wanted = _variables(directory / name), _variables(expected / name)
        except OSError as error:
            differences.append(f"{name}: {error}")
            continue
        if _record(directory / name) != _record(expected / name):
            differences.append(f"{name}: the record of the training")
        if {key: (v.shape, v.dtype) for key, v in found.items()} != {
            key: (v.shape, v.dtype) for key, v in wanted.items()
        }:
            differences.append(f"{name}: the variables")
            continue
        for key, value in wanted.items():
            bits += 8 * value.nbytes
            count = _differing_bits(found[key], value)
            differing += count
            if count:
                differences.append(f"{name}: {count} bits of {key}")
    lines, wanted = _log(directory), _log(expected)
    if lines != wanted:
        differences.append(f"log.jsonl: {lines} in place of {wanted}")
    points, text = _compare_tensorboard(directory / "tensorboard", expected / "tensorboard")
    return {
        "bits": bits,
        "differing_bits": differing,
        "log_lines": len(lines),
        "points": points,
        "differences": differences + text,
    }


def _files(directory):
    """Everything of a run but TensorBoard's files, of which each resume adds some."""
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if "tensorboard" not in path.relative_to(directory).parts
    }


def _variables(path):
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = np.atleast_1d(item[()])

    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(note)
    return found


def _differing_bits(a, b):
    a, b = (np.frombuffer(each.tobytes(), np.uint8) for each in (a, b))
    return int(np.bitwise_count(a ^ b).sum())


def _record(path):
    with zipfile.ZipFile(path) as archive:
        record = json.loads(archive.comment)["tfadv"]
    del record["sha256"]  # of the file, in which Keras has noted when it was saved
    return record


def _log(directory):
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in TIMES} for line in lines]


def _compare_tensorboard(directory, expected):
    """The number of points, and what is not as it should be, as TensorBoard itself reads them."""
    found, wanted = _points(directory), _points(expected)
    text = [f"TensorBoard: {key}" for key in found.keys() ^ wanted.keys()]
    for key, points in found.items():
        steps = [step for step, _ in points]
        if any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            text.append(f"TensorBoard: {key} has the steps {steps}")
        elif steps != [step for step, _ in wanted.get(key, [])]:
            text.append(f"TensorBoard: {key} has gaps: {steps}")
        elif points != wanted.get(key) and not _measures_time(key):
            text.append(f"TensorBoard: {key} has other values")
    return sum(map(len, found.values())), text


def _points(directory):
    """(run, tag) -> [(step, value as bytes)]."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of what was struck out
    everything = dict.fromkeys(("scalars", "images", "histograms"), 0)
    runs = EventMultiplexer(tensor_size_guidance=everything)
    runs.AddRunsFromDirectory(str(directory))
    runs.Reload()
    return {
        (run, tag): [
            (event.step, event.tensor_proto.SerializeToString()) for event in runs.Tensors(run, tag)
        ]
        for run, tags in runs.Runs().items()
        for tag in tags["tensors"]
    }


def _measures_time(key):
    return key[1].startswith("_hparams_") or key[1].rpartition("/")[2] in TIMES
