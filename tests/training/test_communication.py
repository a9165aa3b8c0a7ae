"""The share of communication, by a clock that the test sets."""

import tensorflow as tf

from tfadv.training import communication


def test_share_of_the_time_from_mean_to_mean(monkeypatch):
    times = iter([100.0, 103.0, 104.0, 101.0, 109.0, 112.0, 1000.0, 1001.0, 1002.0])
    after = []

    def now(tensors):
        after.append(tensors)
        return tf.constant(next(times), tf.float64)

    monkeypatch.setattr(communication, "_now", now)
    clock = communication.Communication()
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
    # An epoch begins without sums, and what lies between epochs is of neither.
    clock.reset()
    assert float(clock.results()["communication_share"]) == 0
    assert update() == [3, 8]
    assert clock.measured.numpy().tolist() == [1, 2]


def test_the_clock_of_a_graph():
    @tf.function
    def between():
        first = communication._now([tf.zeros([1])])
        return first, communication._now([first])

    for first, second in (between(), between.python_function()):
        assert first.dtype == second.dtype == tf.float64
    assert 1.7e9 < first <= second < first + 60
