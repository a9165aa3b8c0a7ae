"""Means of an epoch; tests/callbacks/test_adversarial_training.py counts those of `fit` by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv.training import meters
from tfadv.training.batches import Mixture


def test_success_of_an_untargeted_attack_is_a_wrong_class():
    meter = meters.Meters(("adv",), targeted=False)
    images, labels = tf.zeros([4, 1]), tf.constant([0, 1, 2, 0])
    batch = Mixture(images, images, labels, None, 0.0)
    outputs = tf.one_hot([0, 2, 2, 1], 3)
    # An untargeted attack returns the labels instead of targets.
    means = meter.add(meter.measure(batch, outputs, tf.constant(1.0), {"adv": 1.0}, labels))
    assert list(means) == ["loss", "adv_loss", "adv_accuracy", "attack_success"]
    assert (float(means["attack_success"]), float(means["adv_accuracy"])) == (0.5, 0.5)


@pytest.mark.parametrize(
    "labels", [[2, 0], [[2], [0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.array([2.0, 0.0])]
)
def test_reads_every_form_of_labels(labels):
    numbers = meters.sparse(tf.constant(labels))
    assert numbers.numpy().tolist() == [2, 0] and numbers.dtype == tf.int64


def test_share_of_the_time_from_mean_to_mean(monkeypatch):
    times = iter([100.0, 103.0, 104.0, 101.0, 109.0, 112.0, 1000.0, 1001.0, 1002.0])
    after = []

    def now(tensors):
        after.append(tensors)
        return tf.constant(next(times), tf.float64)

    monkeypatch.setattr(meters, "_now", now)
    clock = meters.Communication()
    images, sent, means = tf.zeros([2]), [tf.ones([1])], [tf.fill([1], 2.0)]

    def update():
        clock.begin(images)
        measured = clock.measured.numpy().tolist()  # of the update before
        assert clock.around(sent, lambda: means) is means
        return measured

    assert update() == [0, 0]
    # The first update begins with its batch, at 100, and later ones with the mean before them.
    assert update() == [1, 4]
    assert after[0][0] is images and after[1] is sent and after[2] is means
    assert float(clock.add([1.0, 4.0])["communication_share"]) == 0.25
    assert float(clock.add([3.0, 4.0])["communication_share"]) == 0.5
    # An epoch begins without sums, and the time between epochs belongs to neither.
    clock.reset()
    assert float(clock.results()["communication_share"]) == 0
    assert update() == [3, 8]
    assert clock.measured.numpy().tolist() == [1, 2]


def test_the_clock_runs_in_a_graph():
    @tf.function
    def between():
        first = meters._now([tf.zeros([1])])
        return first, meters._now([first])

    for first, second in (between(), between.python_function()):
        assert first.dtype == second.dtype == tf.float64
    assert 1.7e9 < first <= second < first + 60
