import json

import numpy as np
import pytest

from tests.evaluation import cases
from tfadv import attacks, evaluation

COUNT, BATCH = 23, 5
SETTINGS = dict(attack=attacks.PGD(num_steps=2), num_steps=[1, 2])


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def evaluator():
    return evaluation.Evaluator(cases.regression(), **SETTINGS)


@pytest.fixture
def attacked(evaluator, monkeypatch):
    """The indices of all images that the evaluator has attacked."""
    indices_so_far = []
    outcomes = evaluator.outcomes

    def noted(run, images, labels, indices, so_far):
        if run.attack is not None and run.steps[1] == [2]:
            indices_so_far.extend(int(index) for index in indices if index >= 0)
        return outcomes(run, images, labels, indices, so_far)

    monkeypatch.setattr(evaluator, "outcomes", noted)
    return indices_so_far


def run(evaluator, journal=None, kill_after=None, limit=None):
    """The results; None if the evaluation was killed after so many batches."""

    def progress(done, total):
        if done == kill_after:
            raise Killed

    try:
        data = cases.images(evaluator.model, COUNT)
        return evaluator(data, BATCH, limit, progress, journal)
    except Killed:
        return None


def test_a_killed_evaluation_resumes_and_attacks_no_image_twice(evaluator, attacked, tmp_path):
    expected = run(evaluator)
    assert sorted(attacked) == list(range(COUNT))

    def journal(identity="same"):
        attacked.clear()
        return evaluation.Journal(tmp_path / "partial", {"model": identity})

    for kill_after, images in ((1, range(5)), (2, range(5, 10)), (4, range(10, 20))):
        assert run(evaluator, journal(), kill_after) is None
        assert attacked == list(images)
    # A worker that was killed while it wrote left half a line: those images are attacked again.
    last = max((tmp_path / "partial").iterdir(), key=lambda path: path.stat().st_size)
    text = last.read_text().splitlines(keepends=True)
    last.write_text("".join(text[:-1]) + text[-1][:-10])
    lost = {index for index, _ in json.loads(text[-1])["outcomes"]}
    # The outcomes of another evaluation do not count.
    run(evaluator, journal("other"), kill_after=1)
    assert attacked == list(range(5))
    assert run(evaluator, journal()) == expected
    assert set(attacked) == set(range(20, COUNT)) | lost and len(lost) == 5
    assert run(evaluator, journal()) == expected and attacked == []
    few = run(evaluator, journal(), limit=7)
    assert attacked == [] and few == run(evaluator, limit=7)
    journal().remove()
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("own_folders, sizes", [(False, (3, 2)), (True, (2, 2))])
def test_other_workers_resume(together, evaluator, attacked, tmp_path, own_folders, sizes):
    expected = run(evaluator)

    def work(rank, kill_after=None):
        folder = tmp_path / str(rank if own_folders else "all")
        return run(evaluator, evaluation.Journal(folder, {}), kill_after)

    attacked.clear()
    assert together(sizes[0], lambda rank: work(rank, kill_after=1)) == [None] * sizes[0]
    assert len(attacked) == sizes[0] * BATCH
    if own_folders:
        # One worker may have attacked images that are now another worker's.
        [file] = (tmp_path / "0").iterdir()
        file.rename(tmp_path / "1" / "moved.jsonl")
    assert together(sizes[1], work) == [expected] * sizes[1]
    assert sorted(attacked) == list(range(COUNT))


def test_the_identity_holds_all_settings(evaluator):
    model = evaluator.model
    identities = [
        evaluator.identity,
        evaluation.Evaluator(model, **SETTINGS, seed=1).identity,
        evaluation.Evaluator(model, **SETTINGS, attack_precision="bfloat16").identity,
        evaluation.Evaluator(model, attacks.PGD(num_steps=2, epsilon=8), [1, 2]).identity,
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4


def test_the_format_of_a_file(evaluator, tmp_path):
    """Journals of earlier versions must stay readable."""
    journal = evaluation.Journal(tmp_path, {"model": "x"})
    journal.narrow(division="ab")
    outcomes = np.arange(18).reshape(2, 1, 3, 3) % 2 == 1
    journal.add([7, -1], outcomes)
    [file] = tmp_path.iterdir()
    assert file.read_text() == (
        '{"identity": {"model": "x", "division": "ab"}}\n{"outcomes": [[7, "5500"]]}\n'
    )
    [(index, read)] = journal.read((1, 3, 3)).items()
    assert index == 7 and np.array_equal(read, outcomes[0])
