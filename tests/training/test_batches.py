import numpy as np
import pytest
import tensorflow as tf

from tfadv.training.batches import Mixture, clean_count, split


@pytest.mark.parametrize(
    ("size", "ratio", "count"),
    [
        (32, 0.2, 6),  # 6.4
        (32, 0.4, 13),  # 12.8
        (32, 0.6, 19),
        (32, 0.8, 26),
        (32, 1.0, 32),
        (5, 0.5, 3),  # a half goes up
        (3, 0.5, 2),
        (2, 0.2, 1),  # at least one
        (1, 0.01, 1),
    ],
)
def test_clean_count_rounds_halves_up_to_at_least_one(size, ratio, count):
    assert clean_count(size, ratio) == count
    in_graph = tf.function(lambda size: clean_count(size, ratio))(tf.constant(size))
    assert in_graph.numpy() == count and in_graph.dtype == tf.int32


def mixture(images, ratio, attacked=True, weights=None):
    labels = tf.cast(images[:, 0], tf.int64)
    return Mixture(images, -images if attacked else None, labels, weights, ratio)


IMAGES = tf.constant(np.arange(1.0, 6.0)[:, None], tf.float32)


def test_mixture_is_adversarial_images_then_the_first_clean_ones():
    batch = mixture(IMAGES, 0.4, weights=IMAGES[:, 0] * 10)
    assert batch.images[:, 0].numpy().tolist() == [-1, -2, -3, -4, -5, 1, 2]
    assert batch.labels.numpy().tolist() == [1, 2, 3, 4, 5, 1, 2]
    assert batch.weights.numpy().tolist() == [10, 20, 30, 40, 50, 10, 20]
    assert (batch.domain, batch.num_adversarial, batch.num_clean) == (5, 5, 2)
    assert batch.part(batch.labels, "adv").numpy().tolist() == [1, 2, 3, 4, 5]
    assert batch.part(batch.labels, "clean").numpy().tolist() == [1, 2]
    assert batch.part(None, "clean") is None


def test_mixture_of_one_domain():
    batch = mixture(IMAGES, 0.0)
    assert batch.images[:, 0].numpy().tolist() == [-1, -2, -3, -4, -5]
    assert (batch.domain, batch.parts, batch.num_clean) == ("adv", ("adv",), 0)
    batch = mixture(IMAGES, 0.2, attacked=False)  # with nothing to mix, all clean images stay
    assert batch.images[:, 0].numpy().tolist() == [1, 2, 3, 4, 5]
    assert (batch.domain, batch.parts, batch.num_adversarial) == ("clean", ("clean",), 0)
    assert batch.part(batch.labels, "clean").numpy().tolist() == [1, 2, 3, 4, 5]


def test_mixture_of_a_size_known_only_in_the_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, 1])])
    def make(images):
        batch = mixture(images, 0.4)
        assert tf.is_tensor(batch.domain)
        return batch.images[:, 0], batch.domain, batch.part(batch.images, "clean")[:, 0]

    for size, stay in ((5, 2), (2, 1), (1, 1)):
        images, domain, clean = make(IMAGES[:size])
        first = list(range(1, size + 1))
        assert images.numpy().tolist() == [-value for value in first] + first[:stay]
        assert domain.numpy() == size and clean.numpy().tolist() == first[:stay]


def test_split_into_consecutive_parts():
    images, labels, nothing = split((tf.reshape(tf.range(12), [6, 2]), tf.range(6), None), 3)
    assert images.numpy().tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert labels.numpy().tolist() == [[0, 1], [2, 3], [4, 5]] and nothing is None


def test_split_refuses_what_does_not_divide():
    message = r"accumulation_steps must divide .* accumulation_steps=4 for batches of 6"
    with pytest.raises(ValueError, match=message):
        split((tf.range(6),), 4)

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def of_any_size(tensor):
        with pytest.raises(ValueError, match="fixed size .* batches of None"):
            split((tensor,), 2)
        return tensor

    of_any_size(tf.range(4.0))
