import numpy as np
import tensorflow as tf

from tfadv.data import sampling


def test_keys_differ_in_every_part():
    keys = {
        tuple(sampling.key(*arguments).numpy())
        for arguments in (
            (0, 0, sampling.ORDER),
            (1, 0, sampling.ORDER),
            (0, 1, sampling.ORDER),
            (0, 0, sampling.AUGMENTATION),
            (0, 0, sampling.AUGMENTATION, 0),
            (0, 0, sampling.AUGMENTATION, 1),
            (-1, 0, sampling.ORDER),
        )
    }
    assert len(keys) == 7
    np.testing.assert_array_equal(sampling.key(3, 4, 5, 6), sampling.key(3, 4, 5, 6))
    six = tf.constant(6, tf.int64)
    np.testing.assert_array_equal(
        sampling.numbered(sampling.key(3, 4, 5, 0), six), sampling.key(3, 4, 5, 6)
    )


def test_the_fixed_order_never_changes():
    # Written down: the split of the digits and the validation order of folders rest on it.
    assert sampling.fixed_permutation(10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
