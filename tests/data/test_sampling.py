import numpy as np
import pytest
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


def test_an_order_holds_every_example_and_depends_on_seed_and_epoch():
    orders = [sampling.permutation(50, *arguments) for arguments in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order.numpy()) == list(range(50))
    assert len({tuple(order.numpy()) for order in orders}) == 3


def test_the_fixed_order_never_changes():
    # Written down: the split of the digits and the validation order of folders rest on it.
    assert sampling.fixed_permutation(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert sampling.fixed_permutation(10, 1).tolist() != [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_examples", [1, 7, 30])
def test_validation_indices_cover_each_example_once(num_examples, size):
    shards = [sampling.validation_indices(num_examples, 4, rank, size) for rank in range(size)]
    assert len({shard.shape for shard in shards}) == 1
    indices = np.concatenate(shards, axis=None)
    assert sorted(indices[indices >= 0]) == list(range(num_examples))
    for rank, shard in enumerate(shards):
        assert all(index % size == rank for index in shard[shard >= 0])
