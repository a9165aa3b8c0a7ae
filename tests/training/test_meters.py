import numpy as np
import pytest
import tensorflow as tf

from tfadv.training.batches import Mixture
from tfadv.training.meters import Meters, sparse

LABELS = tf.constant([0, 1, 2, 0])


def mixture(ratio=0.5, attacked=True):
    images = tf.zeros([4, 1])
    return Mixture(images, images if attacked else None, LABELS, None, ratio)


def outputs(predictions):
    return tf.one_hot(predictions, 3)


def measure(meters, batch, predictions, loss, losses, goals=(1, 2, 0, 1)):
    return meters.measure(
        batch, outputs(predictions), tf.constant(loss), losses, tf.constant(goals)
    )


def test_means_over_the_images_of_an_epoch():
    meters = Meters(("adv", "clean"))
    # 4 adversarial images (2 right, 1 as aimed), 2 clean ones (1 right).
    first = measure(meters, mixture(), [0, 1, 0, 2, 0, 0], 3.0, {"adv": 4.0, "clean": 1.0})
    means = {name: float(value) for name, value in meters.add(first).items()}
    assert means == {
        "loss": 3.0,
        "adv_loss": 4.0,
        "adv_accuracy": 0.5,
        "clean_loss": 1.0,
        "clean_accuracy": 0.5,
        "attack_success": 0.25,
    }
    # 4 adversarial images (none right, all as aimed), 4 clean ones (all right).
    second = measure(
        meters, mixture(1.0), [1, 2, 0, 1, 0, 1, 2, 0], 10.0, {"adv": 2.0, "clean": 7.0}
    )
    means = {name: float(value) for name, value in meters.add(second).items()}
    assert means == pytest.approx(
        {
            "loss": (3 * 6 + 10 * 8) / 14,
            "adv_loss": (4 * 4 + 2 * 4) / 8,
            "adv_accuracy": 2 / 8,
            "clean_loss": (1 * 2 + 7 * 4) / 6,
            "clean_accuracy": 5 / 6,
            "attack_success": 5 / 8,
        }
    )
    meters.reset()
    assert float(meters.add(first)["loss"]) == 3.0


def test_success_of_an_untargeted_attack_is_a_wrong_class():
    meters = Meters(("adv",), targeted=False)
    # What it aims away from are the labels, which are as good as no goals.
    table = measure(meters, mixture(0.0), [0, 2, 2, 1], 1.0, {"adv": 1.0}, goals=[0, 1, 2, 0])
    means = meters.add(table)
    assert list(means) == ["loss", "adv_loss", "adv_accuracy", "attack_success"]
    assert (float(means["attack_success"]), float(means["adv_accuracy"])) == (0.5, 0.5)


def test_clean_images_alone_have_no_attack():
    meters = Meters(("clean",))
    table = measure(meters, mixture(attacked=False), [0, 1, 1, 1], 1.0, {"clean": 1.0}, goals=())
    means = meters.add(table)
    assert list(means) == ["loss", "clean_loss", "clean_accuracy"]
    assert float(means["clean_accuracy"]) == 0.5


def test_means_of_nothing_are_zero():
    meters = Meters(("clean",))
    assert float(meters.add(tf.zeros(meters.shape))["loss"]) == 0.0


@pytest.mark.parametrize(
    "labels", [[2, 0], [[2], [0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.array([2.0, 0.0])]
)
def test_sparse_reads_every_form_of_labels(labels):
    found = sparse(tf.constant(labels))
    assert found.numpy().tolist() == [2, 0] and found.dtype == tf.int64
