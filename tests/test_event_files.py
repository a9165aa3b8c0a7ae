import io
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tfadv.event_files import EventFile, read_scalars


def write(directory, step, values):
    """Writes events (`step -> value`) as a training that continues from a step."""
    file = EventFile(directory, step)
    for at, value in values.items():
        file.scalar("loss", value, at)
    file.close()


def test_scalars_are_what_tensorboard_expects(tmp_path):
    before = time.time()
    write(tmp_path, 0, {3: 0.5, 6: 0.25})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    losses = events.Tensors("loss")
    values = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in losses]
    assert values == [(3, 0.5), (6, 0.25)]
    # The horizontal axes "relative" and "wall" count from these times.
    assert all(before <= event.wall_time <= time.time() for event in losses)
    assert events.SummaryMetadata("loss").plugin_data.plugin_name == "scalars"


def test_scalars_of_a_killed_training_after_its_checkpoint_do_not_count(tmp_path):
    write(tmp_path, 0, {2: 1.0, 4: 2.0, 6: 3.0, 8: 4.0})
    write(tmp_path, 4, {6: 30.0})  # resumed from the checkpoint of step 4, and killed again
    assert read_scalars(tmp_path) == {2: {"loss": 1}, 4: {"loss": 2}, 6: {"loss": 30}}
    write(tmp_path, 4, {6: 30.0, 8: 40.0})
    write(tmp_path, 8, {10: 50.0})
    expected = {2: 1.0, 4: 2.0, 6: 30.0, 8: 40.0, 10: 50.0}
    assert read_scalars(tmp_path) == {step: {"loss": value} for step, value in expected.items()}
    events = EventAccumulator(str(tmp_path), tensor_size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("loss")] == list(expected)  # none twice


@pytest.mark.parametrize("shape", [(5, 7, 3), (300, 20, 3)])
def test_images_keep_their_pixels(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    file = EventFile(tmp_path, 0)
    file.image("picture", png.getvalue(), 5)
    file.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [event] = events.Tensors("picture")
    width, height, encoded = event.tensor_proto.string_val
    assert (event.step, int(height), int(width)) == (5, *shape[:2])
    np.testing.assert_array_equal(tf.io.decode_png(encoded), pixels)
    assert events.SummaryMetadata("picture").plugin_data.plugin_name == "images"


def test_a_missing_run_has_no_scalars(tmp_path):
    assert read_scalars(tmp_path / "none") == {}


def test_callbacks_of_one_fit_share_the_file_of_a_run(tmp_path):
    fit = {"epochs": 3}
    first = EventFile.shared(tmp_path, 4, fit)
    second = EventFile.shared(tmp_path, 4, fit)
    assert second is first and EventFile.shared(tmp_path / "other", 4, fit) is not first
    first.scalar("loss", 1.0, 6)
    first.close()
    second.scalar("accuracy", 0.5, 6)
    second.close()
    assert len(list(tmp_path.glob("events*"))) == 1
    # The next fit has a file of its own, although an exception ended this one before it closed its.
    left = EventFile.shared(tmp_path, 6, fit)
    again = EventFile.shared(tmp_path, 6, {"epochs": 3})
    assert again is not left
    left.close()
    again.scalar("loss", 2.0, 8)
    assert read_scalars(tmp_path) == {6: {"loss": 1.0, "accuracy": 0.5}, 8: {"loss": 2.0}}
    assert EventFile.shared(tmp_path, 8, None) is not again  # outside of any fit
