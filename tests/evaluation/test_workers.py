"""Any number of workers counts the same."""

import numpy as np
import pytest

from tests import workers
from tests.evaluation import cases
from tfadv import data, distributed, evaluation
from tfadv.attacks import PGD


def evaluate(kind="arrays", batch_size=4, limit=None, progress=None):
    model = cases.mixture()
    x, y = cases.images(model, 31)
    given = {
        "arrays": (x, y),
        "dataset": data.ArrayDataset("made", (x, y), (x, y), cases.CLASSES),
    }[kind]
    return evaluation.evaluate(
        model,
        given,
        PGD(6, restarts=2),
        [3, 6],
        batch_size=batch_size,
        seed=9,
        limit=limit,
        progress=progress,
    )


def simulate(monkeypatch, size, **options):
    """Runs each worker of `size` in turn; returns the results and draws by image and restart."""
    draws, counted = {}, []
    trajectory = evaluation.Evaluator.trajectory

    def spy(self, network, images, labels, indices, step_size, numbers, restart=0):
        # Given no steps to take, what comes out is the start.
        (_, start, goals), *_ = trajectory(
            self, network, images, labels, indices, step_size, [0], restart
        )
        for i, index in enumerate(indices):
            if index >= 0:
                draws.setdefault((int(index), step_size, restart), []).append(
                    (int(goals[i]), start[i].numpy().tobytes())
                )
        return trajectory(self, network, images, labels, indices, step_size, numbers, restart)

    monkeypatch.setattr(evaluation.Evaluator, "trajectory", spy)
    monkeypatch.setattr(distributed, "size", lambda: size)
    monkeypatch.setattr(
        distributed, "total", lambda values: counted.append(values) or np.asarray(values, float)
    )
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        evaluate(**options)
    return np.sum(counted, axis=0).tolist(), draws


def test_any_number_of_workers_gives_the_same_targets_starts_and_counts(monkeypatch):
    kinds = {1: {}, 2: {"batch_size": 4}, 3: {"kind": "dataset"}, 5: {"batch_size": 4}}
    found = {size: simulate(monkeypatch, size, **options) for size, options in kinds.items()}
    counts, draws = found[1]
    total, *rows = counts
    assert total == 31 and len(draws) == 31 * 2 * 2
    assert 0 < rows[4] < rows[0] < 31
    assert all(len(each) == 1 for each in draws.values())
    for size in (2, 3, 5):
        assert found[size] == found[1]
    # Another batch size draws the same.
    assert simulate(monkeypatch, 2, batch_size=7)[1] == draws


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_workers_have_as_many_batches_and_may_have_no_image(monkeypatch, kind):
    monkeypatch.setattr(distributed, "size", lambda: 5)
    seen = []
    monkeypatch.setattr(distributed, "total", lambda values: np.asarray([3, *values[1:]], float))
    for rank in (0, 4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        results = evaluate(kind, limit=3, progress=lambda *progress: seen.append(progress))
    assert seen == [(1, 1), (1, 1)]
    assert [result.correct for result in results] == [0, 0, 0]  # of rank 4 alone


def test_real_workers_count_as_one_process():
    results = workers.run(evaluate, 2)
    assert results[0] == results[1] == evaluate()
