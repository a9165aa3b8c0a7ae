import numpy as np
import pytest
from scipy import stats

from tfadv.attacks import PGD, random_targets


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", [2, 10])
def test_targets_are_uniform_over_the_wrong_labels(per_image, classes):
    labels = np.arange(6000) % classes
    seed = np.stack([np.full(6000, 5), np.arange(6000)], 1) if per_image else (5, 0)
    targets = random_targets(labels, classes, seed).numpy()
    assert targets.dtype == labels.dtype
    assert np.all(targets != labels)
    assert targets.min() == 0 and targets.max() == classes - 1
    for label in range(classes):
        counts = np.bincount(targets[labels == label], minlength=classes)
        assert counts[label] == 0
        if classes > 2:
            assert stats.chisquare(np.delete(counts, label)).pvalue > 1e-3
    offsets = np.bincount((targets - labels) % classes, minlength=classes)[1:]
    if classes > 2:
        assert stats.chisquare(offsets).pvalue > 1e-3


def test_targets_of_1000_classes_are_never_the_label():
    labels = np.full(20000, 999)
    targets = random_targets(labels, 1000, (1, 1)).numpy()
    assert targets.min() == 0 and targets.max() == 998
    assert stats.chisquare(np.bincount(targets, minlength=999)).pvalue > 1e-3


def test_an_attack_draws_these_targets(case):
    _, targets = PGD().start(case.images, case.labels, case.classes, (9, 9), case.range)
    np.testing.assert_array_equal(targets, random_targets(case.labels, case.classes, (9, 9)))
    _, labels = PGD(targeted=False).start(case.images, case.labels, 7, (9, 9), case.range)
    np.testing.assert_array_equal(labels, case.labels)


def test_targets_and_starts_of_images_are_independent():
    images = np.full([2000, 1, 1, 1], 100, "float32")
    seed = np.stack([np.zeros(2000, int), np.arange(2000)], 1)
    start, targets = PGD().start(images, np.zeros(2000, int), 10, seed, (0, 255))
    noise = start.numpy().ravel() - 100
    assert abs(stats.spearmanr(noise, targets).statistic) < 0.08
    assert abs(stats.spearmanr(noise[1:], noise[:-1]).statistic) < 0.08
    assert abs(stats.spearmanr(targets[1:], targets[:-1]).statistic) < 0.08


def test_one_class_has_no_target():
    with pytest.raises(ValueError, match="num_classes must be 2 or more .* received 1"):
        random_targets([0], 1, (0, 0))
