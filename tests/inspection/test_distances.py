import warnings

import numpy as np
import pytest

import tfadv
from tfadv import inspection


def record(mean, variance, epsilon=0.0, domain="adv", path="norm"):
    mean, variance = np.array(mean, np.float32), np.array(variance, np.float32)
    return inspection.LayerStatistics(path, domain, mean, variance, None, None, epsilon)


def hellinger(adv, clean, epsilon):
    """By integrating the two densities, channel by channel."""
    distances = []
    for m_a, v_a, m_c, v_c in zip(*adv, *clean, strict=True):
        v_a, v_c = v_a + epsilon, v_c + epsilon
        reach = 12 * np.sqrt(max(v_a, v_c))
        x = np.linspace(min(m_a, m_c) - reach, max(m_a, m_c) + reach, 400_001)
        p = np.exp(-((x - m_a) ** 2) / (2 * v_a)) / np.sqrt(2 * np.pi * v_a)
        q = np.exp(-((x - m_c) ** 2) / (2 * v_c)) / np.sqrt(2 * np.pi * v_c)
        squared = np.sum((np.sqrt(p) - np.sqrt(q)) ** 2) * (x[1] - x[0]) / 2
        distances.append(np.sqrt(squared))
    return np.mean(distances)


def test_distance_equals_an_integral_of_the_densities():
    adv = ([0.0, 1.0, -3.0, 2.0], [1.0, 0.5, 4.0, 0.01])
    clean = ([0.5, 1.0, 2.0, 2.05], [1.0, 2.0, 0.25, 0.03])
    distance = inspection.distance(record(*adv, 1e-3), record(*clean, 1e-3))
    assert distance == pytest.approx(hellinger(adv, clean, 1e-3), rel=1e-5)


def test_distance_of_known_shifts():
    shift = inspection.distance(record([1], [1]), record([0], [1]))
    assert shift == pytest.approx(0.3428, abs=1e-4)
    spread = inspection.distance(record([0], [2]), record([0], [1]))
    assert spread == pytest.approx(0.1703, abs=1e-4)


def test_distance_is_symmetric_and_bounded_and_ignores_scale():
    rng = np.random.default_rng(0)
    adv = rng.normal(size=50), rng.uniform(0.01, 9, 50)
    clean = rng.normal(size=50), rng.uniform(0.01, 9, 50)
    distance = inspection.distance(record(*adv), record(*clean))
    assert 0 < distance < 1
    assert inspection.distance(record(*clean), record(*adv)) == distance
    scaled = [(3 * mean + 5, 9 * variance) for mean, variance in (adv, clean)]
    assert inspection.distance(*[record(*each) for each in scaled]) == pytest.approx(distance, 1e-5)
    assert inspection.distance(record(*adv), record(*adv)) == 0
    far = inspection.distance(record([1e6], [1e-3]), record([-1e6], [1e-3]))
    assert far == 1


def test_small_distances_are_exact():
    # For a small shift d of standard normals H is d / sqrt(8).
    shift = np.float32(1e-7)
    distance = inspection.distance(record([shift], [1]), record([0], [1]))
    assert distance == pytest.approx(shift / np.sqrt(8), rel=1e-6)


def test_dead_channels():
    assert inspection.distance(record([0], [0]), record([0], [0])) == 0
    assert inspection.distance(record([1], [0]), record([0], [0])) == 1
    assert inspection.distance(record([0], [1]), record([0], [0])) == 1
    # The epsilon of the layer hides such a difference.
    hidden = inspection.distance(record([0], [1e-12], 1e-5), record([0], [1e-9], 1e-5))
    assert hidden < 1e-4


def test_different_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="same channels"):
        inspection.distance(record([0], [1]), record([0, 0], [1, 1]))


def test_table_of_distances(resnet):
    rows = inspection.distance_table(resnet)
    pairs = inspection.pairs(inspection.statistics(resnet))
    assert {row.path for row in rows} == set(pairs) and len(rows) == 9
    distances = [row.distance for row in rows]
    assert distances == sorted(distances, reverse=True)
    for row in rows:
        adv, clean = pairs[row.path]
        assert list(pairs)[row.position] == row.path
        assert row.channels == len(adv.moving_mean)
        assert row.distance == inspection.distance(adv, clean)
        larger = [a > c for a, c in zip(adv.moving_mean, clean.moving_mean, strict=True)]
        assert row.mean_larger == pytest.approx(sum(larger) / row.channels)
        larger = [a > c for a, c in zip(adv.moving_variance, clean.moving_variance, strict=True)]
        assert row.variance_larger == pytest.approx(sum(larger) / row.channels)


def test_broken_statistics_come_last_without_warnings():
    records = [
        record([np.nan], [np.inf], path="broken"),
        record([0], [1], domain="clean", path="broken"),
        record([0], [1], path="whole"),
        record([0], [1], domain="clean", path="whole"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = inspection.distance_table(records)
    assert [row.path for row in rows] == ["whole", "broken"]


def test_plain_batch_normalization_has_no_distances():
    model = tfadv.models.SmallResNet(8, norm="bn", image_size=8, width=2)
    assert inspection.distance_table(model) == []
