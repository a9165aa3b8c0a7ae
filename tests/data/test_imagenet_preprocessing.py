import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfadv.data import imagenet_preprocessing, sampling

EIGENVALUES = np.array([0.2175, 0.0188, 0.0045]) * 255
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _bicubic_matrix(source, target):
    """Weights of Keys' cubic (a = -1/2), pixel centres at halves, no filter when shrinking."""

    def cubic(x):
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    weights = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            if 0 <= tap < source:
                weights[row, tap] = cubic(centre - tap)
    return weights / weights.sum(axis=1, keepdims=True)


def _bicubic(image, height, width):
    rows = _bicubic_matrix(image.shape[0], height)
    columns = _bicubic_matrix(image.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, image.astype(float), columns)


@pytest.mark.parametrize(
    ("shape", "resized"), [((40, 60), (37, 55)), ((60, 40), (55, 37)), ((25, 25), (37, 37))]
)
def test_validation_is_the_centre_of_the_resized_image(shape, resized):
    # A crop of 32 has a shorter edge of round(32 * 256 / 224) = 37; 37 * 1.5 = 55.5 rounds to 56.
    image = _image(*shape)
    resized = tuple(56 if edge == 55 else edge for edge in resized)
    top, left = (resized[0] - 32) // 2, (resized[1] - 32) // 2
    expected = np.clip(_bicubic(image, *resized), 0, 255)[top : top + 32, left : left + 32]
    result = imagenet_preprocessing.validation_image(image, 32)
    assert result.dtype == tf.uint8 and result.shape == (32, 32, 3)
    # TensorFlow looks its weights up in a table of 1024 offsets.
    assert np.abs(result.numpy() - expected).max() < 0.5 + 0.6


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_pixels_is_evaluated_by_its_middle(turned):
    line = np.zeros([1, 60_001, 3], np.uint8)
    line[:, 30_000 - 20 : 30_000 + 21] = 7
    image = np.swapaxes(line, 0, 1) if turned else line
    result = imagenet_preprocessing.validation_image(image, 224)
    assert result.shape == (224, 224, 3) and (result.numpy() == 7).all()


def test_the_paper_size_has_a_shorter_edge_of_256():
    # A horizontal ramp stays one: the crop shows columns 16 to 239 of 256.
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    result = imagenet_preprocessing.validation_image(ramp, 224).numpy()
    np.testing.assert_array_equal(result, ramp[16:240, 16:240])


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_colors_equal_the_four_steps_one_by_one(order):
    image = _image(9, 7).astype(np.float32)
    factors, noise = [0.7, 1.3, 0.6], np.array([0.05, -0.1, 0.2])
    grey = np.array([0.299, 0.587, 0.114])
    steps = [
        lambda x: x * factors[0],
        lambda x: (x - (x @ grey).mean()) * factors[1] + (x @ grey).mean(),
        lambda x: x * factors[2] + (x @ grey)[..., None] * (1 - factors[2]),
        lambda x: x + EIGENVECTORS @ (noise * EIGENVALUES),
    ]
    expected = image.astype(float)
    for step in order:
        expected = steps[step](expected)
    result = imagenet_preprocessing.adjust_colors(
        tf.constant(image), tf.constant(factors), tf.constant(noise, tf.float32), tf.constant(order)
    )
    np.testing.assert_allclose(result, expected, atol=2e-3)


def test_crops_have_the_stated_areas_aspects_and_places():
    height, width = 400, 500
    key = sampling.key(0, 0, 0, 0)
    windows = tf.data.Dataset.range(3000).map(
        lambda index: imagenet_preprocessing.random_crop_window(
            (height, width), sampling.numbered(key, index)
        )
    )
    tops, lefts, heights, widths = np.stack(list(windows.as_numpy_iterator())).T
    assert (tops >= 0).all() and (tops + heights <= height).all()
    assert (lefts >= 0).all() and (lefts + widths <= width).all()
    area, aspect = heights * widths / (height * width), widths / heights
    assert 0.078 < area.min() < 0.09 and 0.9 < area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.35
    small = area < 0.4  # Always fits, so these areas are uniform, and aspects symmetric.
    assert abs(area[small].mean() - 0.24) < 0.01
    assert abs((aspect[small] > 1).mean() - 0.5) < 0.05
    corner = tops[small] / (height - heights[small])
    assert abs(corner.mean() - 0.5) < 0.03 and corner.min() < 0.02 and corner.max() > 0.98


def test_an_image_too_long_for_any_crop_gives_its_middle():
    window = imagenet_preprocessing.random_crop_window((10, 1000), sampling.key(0, 0, 0))
    np.testing.assert_array_equal(window, [0, 495, 10, 10])


def test_training_images_stay_in_range_and_come_from_the_key():
    extreme = (_image(50, 40) > 127).astype(np.uint8) * 255  # Bicubic overshoots at every edge.
    results = [
        imagenet_preprocessing.train_image(extreme, 24, sampling.key(0, 0, 0, index))
        for index in (0, 0, 1, 2, 3)
    ]
    for result in results:
        assert result.dtype == tf.uint8 and result.shape == (24, 24, 3)
    np.testing.assert_array_equal(results[0], results[1])
    assert all((results[0].numpy() != result.numpy()).any() for result in results[2:])


def test_casting_clips_and_rounds():
    values = tf.constant([-7.0, 0.4, 0.6, 254.6, 300.0])
    assert imagenet_preprocessing.to_uint8(values).numpy().tolist() == [0, 0, 1, 255, 255]


def test_half_of_the_images_are_mirrored(monkeypatch):
    monkeypatch.setattr(
        imagenet_preprocessing, "adjust_colors", lambda image, factors, noise, order: image
    )
    image, key = tf.constant(_image(16, 16)), sampling.key(0, 0, 0, 0)
    results = tf.data.Dataset.range(200).map(
        lambda index: imagenet_preprocessing.train_image(image, 16, sampling.numbered(key, index))
    )
    mirrored = [(result == image.numpy()[:, ::-1]).all() for result in results.as_numpy_iterator()]
    kept = [(result == image.numpy()).all() for result in results.as_numpy_iterator()]
    assert all(np.logical_xor(mirrored, kept))
    assert 70 < sum(mirrored) < 130
