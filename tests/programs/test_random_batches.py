"""Mini-batches made outside of a training as it makes them."""

import keras
import numpy as np
import pytest

from tests.programs.test_flags import QUICK
from tfadv.programs import building, command_lines
from tfadv.programs import inspect as inspect_program


@pytest.fixture(scope="module")
def model():
    layers = [keras.Input([8, 8, 1]), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def make(model, tmp_path, *flags, seed=0):
    flags = [QUICK, "--num_steps=2", "--images_per_worker=8", "--start_from_clean=0", *flags]
    trained, _ = command_lines.train([*flags, f"--run_dir={tmp_path / 'run'}"])
    dataset = building.dataset(trained)
    batches = [
        (images.numpy(), domain)
        for images, domain in inspect_program.random_mini_batches(trained, model, dataset, 2, seed)
    ]
    known = {image.tobytes() for image in dataset._train[0].numpy().astype("float32")}
    return inspect_program.mini_batch_text(trained), batches, known


def test_adversarial_images_beside_the_clean_ones_that_they_are_of(model, tmp_path):
    said, batches, known = make(model, tmp_path, "--clean_ratio=0.5")
    assert said == "8 adversarial images (PGD-2) and 4 clean ones"
    for images, domain in batches:
        assert (len(images), domain) == (12, 8)
        clean = images[8:]
        assert {image.tobytes() for image in clean} <= known
        # As far as the quickstart's epsilon, from a random start.
        assert 40 < np.abs(images[:4] - clean).max() <= 80.001
        assert images.min() >= 0 and images.max() <= 255
    first, second = (images for images, _ in batches)
    assert not np.array_equal(first, second)


def test_one_domain_alone(model, tmp_path):
    said, batches, known = make(model, tmp_path, "--norm=bn", "--clean_ratio=0")
    assert said == "8 adversarial images (PGD-2)"
    assert [(len(images), domain) for images, domain in batches] == [(8, "adv")] * 2
    assert not known & {image.tobytes() for images, _ in batches for image in images}
    flags = ["--norm=bn", "--adversarial=false"]
    said, batches, known = make(model, tmp_path, *flags)
    assert said == "8 clean images"
    assert [(len(images), domain) for images, domain in batches] == [(8, "clean")] * 2
    assert {image.tobytes() for images, _ in batches for image in images} <= known
    again, other = (make(model, tmp_path, *flags, seed=seed)[1] for seed in (0, 1))
    np.testing.assert_array_equal(again[1][0], batches[1][0])
    assert not np.array_equal(other[1][0], batches[1][0])
