import numpy as np
import tensorflow as tf

from tfadv.data import cifar_augmentation, sampling


def test_every_result_is_one_of_the_possible_crops():
    generator = np.random.default_rng(0)
    image = generator.integers(1, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 6, left : left + 5]
            crops[crop.tobytes()] = top, left, False
            crops[crop[:, ::-1].tobytes()] = top, left, True
    batch = tf.constant(np.tile(image[None], (2000, 1, 1, 1)))
    results = cifar_augmentation.augment(batch, sampling.key(0, 0, 0)).numpy()
    assert results.dtype == np.uint8
    tops, lefts, flips = zip(*(crops[result.tobytes()] for result in results), strict=True)
    # 2000 draws: 222 of each shift (deviation 14), half of them mirrored (deviation 22).
    assert np.abs(np.bincount(tops, minlength=9) - 222).max() < 60
    assert np.abs(np.bincount(lefts, minlength=9) - 222).max() < 60
    assert abs(sum(flips) - 1000) < 100
    assert abs(np.corrcoef(tops, flips)[0, 1]) < 0.1


def test_the_draws_come_from_the_key():
    batch = tf.constant(np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    first, same, other = (
        cifar_augmentation.augment(batch, sampling.key(0, 0, 0, detail)).numpy()
        for detail in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
