"""Checkpoint files: which are complete, which is the newest, and what other programs load."""

import json
import zipfile

import keras
import numpy as np
import pytest

from tests.training import cases
from tfadv import checkpoint_files
from tfadv.checkpoint_files import Progress
from tfadv.training import checkpoints

PROGRESS = Progress(3, 120, 2, {"metrics": [0.1, 7.0], "meters": [[1 / 3, 5.0]]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "epoch-0003-step-000120.keras"
    model = cases.compiled(cases.network(keras.layers.Dropout(0.5, seed=7)))
    checkpoints.save(model, path, PROGRESS)
    return path, model


def test_checkpoints_are_listed_in_the_order_of_the_training(tmp_path):
    places = [(0, 5), (1, 0), (1, 3), (1, 120), (2, 0), (10, 0), (12345, 1234567)]
    for epoch, step in reversed(places):
        (tmp_path / checkpoint_files.name(epoch, step)).touch()
    for other in ("epoch-1.txt", "epoch-last.keras", "epoch-0001-step-.keras", "best.keras"):
        (tmp_path / other).touch()
    paths = checkpoint_files.find(tmp_path)
    assert list(paths) == places
    names = [path.name for path in paths.values()]
    assert names[:2] == ["epoch-0000-step-000005.keras", "epoch-0001.keras"]
    assert checkpoint_files.find(tmp_path / "none") == {}


def test_a_checkpoint_is_a_keras_model_with_a_record_of_the_progress(saved):
    path, model = saved
    progress, [generator] = checkpoint_files.read(path)
    assert progress == PROGRESS and generator == [7, 0]
    checkpoint_files.verify(path)
    loaded = keras.saving.load_model(path)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 3
        assert set(json.loads(archive.comment)) == {"tfadv"}


def test_every_changed_byte_is_noticed(saved, tmp_path):
    content = saved[0].read_bytes()
    path = tmp_path / "epoch-0001.keras"
    places = np.linspace(0, len(content) - 1, 40).astype(int).tolist()
    places += range(len(content) - 500, len(content), 13)  # the end record, and the comment
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"^{path}: ") as raised:
            checkpoint_files.verify(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", [0, 10, 0.5, -700, -1])
def test_a_file_cut_short_is_not_complete(saved, tmp_path, length):
    content = saved[0].read_bytes()
    path = tmp_path / "epoch-0001.keras"
    path.write_bytes(content[: int(length * len(content)) if length == 0.5 else length])
    assert not checkpoint_files.is_complete(path) and checkpoint_files.is_complete(saved[0])
    with pytest.raises(ValueError, match=f"^{path}: "):
        checkpoint_files.verify(path)


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_reported(saved, tmp_path):
    reported = []
    assert checkpoint_files.newest(tmp_path, reported.append) is None
    content = saved[0].read_bytes()
    (tmp_path / "epoch-0001.keras").write_bytes(content)
    (tmp_path / "epoch-0001-step-000007.keras").write_bytes(content)
    (tmp_path / "epoch-0002.keras").write_bytes(content[:2000] + b"!" + content[2001:])
    (tmp_path / "epoch-0003.keras").write_bytes(content[:-2000])
    path = checkpoint_files.newest(tmp_path, reported.append)
    assert path.name == "epoch-0001-step-000007.keras"
    first, second = reported
    assert first == f"passed over {tmp_path}/epoch-0003.keras: File is not a zip file"
    assert second.startswith(f"passed over {tmp_path}/epoch-0002.keras: its SHA-256 is ")
    for name in ("epoch-0001.keras", "epoch-0001-step-000007.keras"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"no checkpoint in {tmp_path} is whole; received 2"):
        checkpoint_files.newest(tmp_path, reported.append)


def test_a_model_without_a_record_is_no_checkpoint(tmp_path):
    path = tmp_path / "epoch-0001.keras"
    cases.compiled(cases.network()).save(path)
    with pytest.raises(ValueError, match=f"{path}: it holds no record of a training"):
        checkpoint_files.verify(path)


def test_metrics_too_large_for_the_record_are_refused(saved, tmp_path):
    progress = Progress(0, 1, 1, {"metrics": [[0.123456789] * 10_000], "meters": []})
    with pytest.raises(ValueError, match="metrics must be smaller .* received 1"):
        checkpoints.save(saved[1], tmp_path / "a.keras", progress)
    assert list(tmp_path.iterdir()) == []
