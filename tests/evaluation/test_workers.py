"""Any number of workers counts the same."""

import numpy as np
import pytest

from tests import workers
from tests.evaluation import cases
from tfadv import data, distributed, evaluation
from tfadv.attacks import PGD
from tfadv.evaluation import rivals


def make(kind="arrays"):
    """An evaluator, and 31 images, which no number of workers here divides."""
    model = cases.mixture()
    x, y = cases.images(model, 31)
    if kind == "dataset":
        x, y = data.ArrayDataset("made", (x, y), (x, y), cases.CLASSES), None
    evaluator = evaluation.Evaluator(model, PGD(6, restarts=2), [3, 6], seed=9)
    return evaluator, x if y is None else (x, y)


class Workers:
    """Some workers, one after the other in this process."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def run(self, size, function):
        """The counts that each worker would give to the others."""
        counted = []

        def total(values):
            counted.append(np.asarray(values).tolist())
            return np.maximum(values, 1.0)  # a worker without images is not alone

        with self.monkeypatch.context() as patch:
            patch.setattr(distributed, "size", lambda: size)
            patch.setattr(distributed, "total", total)
            for rank in range(size):
                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                function()
        return counted


@pytest.fixture
def simulated(monkeypatch):
    return Workers(monkeypatch)


def test_any_number_of_workers_gives_the_same_targets_starts_and_counts(simulated, monkeypatch):
    evaluator, arrays = make()
    _, dataset = make("dataset")
    trajectory = evaluator.trajectory
    draws = {}

    def spy(network, images, labels, indices, step_size, numbers, restart=0):
        given = (network, images, labels, indices, step_size)
        # Given no steps to take, what comes out is the start.
        ((_, start, goals),) = trajectory(*given, [0], restart)
        for i, index in enumerate(indices):
            if index >= 0:
                draw = int(goals[i]), start[i].numpy().tobytes()
                draws.setdefault((int(index), step_size, restart), []).append(draw)
        return trajectory(*given, numbers, restart)

    monkeypatch.setattr(evaluator, "trajectory", spy)
    found = []
    for size, given, batch_size in (
        (1, arrays, 4),
        (2, arrays, 4),
        (3, dataset, 4),
        (5, arrays, 4),
        (2, dataset, 7),
    ):
        draws = {}
        counts = simulated.run(size, lambda given=given, each=batch_size: evaluator(given, each))
        found.append((np.sum(counts, axis=0).tolist(), draws))
        assert {len(draw) for draw in draws.values()} == {1}  # every image once
    (total, clean, _, _, three, hits, _, six, _, _), draws = found[0]
    assert total == 31 and len(draws) == 31 * 2 * 2
    assert 0 < six <= three < clean < 31 and hits > 0
    for counts, others in found[1:]:
        assert counts == found[0][0]
        assert others == draws


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_workers_have_as_many_batches_and_may_have_no_image(simulated, kind):
    evaluator, given = make(kind)
    seen = []
    counts = simulated.run(
        5, lambda: evaluator(given, 4, limit=3, progress=lambda *done: seen.append(done))
    )
    assert seen == [(1, 1)] * 5
    assert [total for total, *_ in counts] == [1, 1, 1, 0, 0]
    assert not np.any(counts[3:])


def test_any_number_of_workers_probes_the_same_images(simulated):
    model = cases.regression()
    data = cases.images(model, 37)  # of which five are too many to be probed
    evaluator = evaluation.Evaluator(model, PGD(6))
    found = []
    for size in 1, 3:
        for limit in None, 2:

            def probe(limit=limit):
                evaluator(data, 8, limit)
                evaluation.doubts(evaluator, [], data, 8, limit)

            counts = simulated.run(size, probe)[1::2]
            found.append(np.sum(counts, axis=0).tolist())
            assert len(counts) == size
    assert found[:2] == found[2:]
    assert [images for images, *_ in found[:2]] == [32, 2]
    compared = -len(rivals.Counts._fields)
    assert [counts[compared] for counts in found[:2]] == [37, 2]
    assert 0 < found[0][compared + 1] < 37


def evaluate():
    evaluator, given = make()
    return evaluator(given, batch_size=4)


def test_real_workers_count_as_one_process():
    results = workers.run(evaluate, 2)
    assert results[0] == results[1] == evaluate()
