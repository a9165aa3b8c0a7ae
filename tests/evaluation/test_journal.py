import json

import numpy as np
import pytest

from tests.evaluation import cases
from tfadv import attacks, distributed, evaluation

COUNT, BATCH = 23, 5


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def case():
    model = cases.regression()
    return model, cases.images(model, COUNT)


def evaluator(model, **options):
    return evaluation.Evaluator(model, attacks.PGD(num_steps=2), [1, 2], **options)


def run(model, data, journal, kill_after=None, limit=None):
    """The results, and which images were attacked; or None and those, after a kill."""
    attacked = []
    evaluate = evaluator(model)
    outcomes = evaluate.outcomes

    def noted(network, images, labels, indices):
        attacked.extend(int(index) for index in indices if index >= 0)
        return outcomes(network, images, labels, indices)

    evaluate.outcomes = noted

    def progress(done, total):
        if done == kill_after:
            raise Killed

    try:
        results = evaluate(data, BATCH, limit, progress, journal)
    except Killed:
        results = None
    return results, attacked


def test_a_killed_evaluation_goes_on_and_attacks_no_image_twice(case, tmp_path):
    model, data = case
    expected, every = run(model, data, None)
    assert sorted(every) == list(range(COUNT))

    def journal(identity="same"):
        return evaluation.Journal(tmp_path / "partial", {"model": identity})

    done = []
    for kill_after, new in ((1, 5), (2, 10 - 5), (4, 20 - 10)):
        _, attacked = run(model, data, journal(), kill_after)
        assert len(attacked) == new and not set(attacked) & set(done)
        done += attacked
    # A worker that was killed while it wrote left half a line: those images are attacked again.
    last = max((tmp_path / "partial").iterdir(), key=lambda path: path.stat().st_size)
    text = last.read_text().splitlines(keepends=True)
    last.write_text("".join(text[:-1]) + text[-1][:-10])
    lost = {index for index, _ in json.loads(text[-1])["outcomes"]}
    # Another evaluation's outcomes are not taken for this one's.
    _, attacked = run(model, data, journal("other"), kill_after=1)
    assert attacked == list(range(5))
    finished = journal()
    results, attacked = run(model, data, finished)
    assert results == expected
    assert set(attacked) == set(range(20, COUNT)) | lost and len(lost) == 5
    again, attacked = run(model, data, journal())
    assert again == expected and attacked == []
    few, attacked = run(model, data, journal(), limit=7)
    assert few == run(model, data, None, limit=7)[0] and attacked == []
    finished.remove()
    assert not (tmp_path / "partial").exists()


def test_other_numbers_of_workers_go_on(case, tmp_path, monkeypatch):
    model, data = case
    expected, _ = run(model, data, None)

    def of_workers(size, kill_after=None):
        totals, found = [], []
        for rank in range(size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(distributed, "size", lambda: size)
            monkeypatch.setattr(distributed, "total", lambda x: totals.append(x) or np.array(x))
            journal = evaluation.Journal(tmp_path / "partial", {})
            found += run(model, data, journal, kill_after)[1]
        return totals, found

    _, attacked = of_workers(3, kill_after=1)
    assert len(attacked) == 15
    totals, rest = of_workers(2)
    assert sorted(attacked + rest) == list(range(COUNT))
    counts = np.sum(totals, axis=0).reshape(-1)
    assert counts[0] == COUNT
    correct = counts[1:].reshape(1, 3, 3)[0, :, 0]
    assert correct.tolist() == [result.correct for result in expected]


def test_workers_on_machines_of_their_own_know_what_all_of_them_found(case, tmp_path, monkeypatch):
    model, data = case
    expected, _ = run(model, data, None)
    shape, totals, counted = [1, 3, 3], [], []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda x: totals.append(x) or np.array(x))

    def of_both(kill_after=None):
        journals = [evaluation.Journal(tmp_path / str(rank), {}) for rank in (0, 1)]
        known = [journal.read(shape) for journal in journals]
        monkeypatch.setattr(
            distributed,
            "gather_object",
            # Besides what is known, workers compare which images they hold.
            lambda mine: known if isinstance(mine, dict) else [mine, mine],
        )
        for rank, journal in enumerate(journals):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            counted.extend(run(model, data, journal, kill_after)[1])

    of_both(kill_after=1)
    # What one found may be the other's share by now.
    [found] = (tmp_path / "0").iterdir()
    found.rename(tmp_path / "1" / "moved.jsonl")
    of_both()
    assert sorted(counted) == list(range(COUNT))
    counts = np.sum(totals, axis=0).reshape(-1)
    assert counts[0] == COUNT
    correct = counts[1:].reshape(shape)[0, :, 0]
    assert correct.tolist() == [result.correct for result in expected]


def test_what_outcomes_depend_on(case):
    model, _ = case
    identities = [
        evaluator(model).identity,
        evaluator(model, seed=1).identity,
        evaluator(model, attack_precision="bfloat16").identity,
        evaluation.Evaluator(model, attacks.PGD(num_steps=2, epsilon=8), [1, 2]).identity,
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4
