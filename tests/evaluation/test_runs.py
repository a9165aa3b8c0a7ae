"""Attacks of several runs: what images go through, full batches, and the same as without them."""

import io
import itertools
import json

import numpy as np
import pytest

from tests import workers
from tests.evaluation import cases
from tfadv import evaluation
from tfadv.attacks import APGD, FAB, AutoAttack, Square, autoattack

COUNT, BATCH = 37, 5
KEYS = np.stack([np.full(COUNT, 4), np.arange(COUNT)], 1)


PARTS = (
    lambda **shared: APGD(num_steps=1, **shared),
    lambda **shared: APGD(num_steps=1, loss="targeted_dlr", num_targets=3, **shared),
    lambda **shared: FAB(num_steps=5, num_targets=9, **shared),
    lambda **shared: Square(num_queries=60, **shared),
)


@pytest.fixture(scope="module")
def few_steps():
    """Makes the standard version one of few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(autoattack._VERSIONS, "standard", PARTS)
        yield


@pytest.fixture(scope="module")
def case(few_steps):
    return make_case()


def make_case():
    """An evaluator under AutoAttack, whose batches are noted, and images."""
    model = cases.regression()
    # Logits so large that cross entropy has hardly any gradient, which leaves work to the others.
    model.set_weights([30 * value for value in model.get_weights()])
    evaluator = evaluation.Evaluator(model, AutoAttack(3.0), seed=4)
    batches = []
    outcomes = evaluator.outcomes

    def noted(run, images, labels, indices, so_far):
        if run.attack is not None:
            batches.append((run.attack.label, run.number, indices[indices >= 0].tolist()))
        assert len(images) == BATCH
        return outcomes(run, images, labels, indices, so_far)

    evaluator.outcomes = noted
    x, y = cases.images(model, COUNT)
    return evaluator, (x, y), batches


def uncompacted(evaluator, x, y):
    """Whether each image is right after each part, all images under every run."""
    [network] = evaluator.networks
    right = [network.predict(x.astype("float32")).numpy() == y]
    for part in evaluator.attack.members:
        left = right[-1].copy()
        for run in range(part.runs(cases.CLASSES)):
            for first in range(0, COUNT, BATCH):
                rows = np.arange(first, first + BATCH).clip(max=COUNT - 1)
                adversarial = part(
                    network, x[rows], y[rows], value_range=(0, 255), seed=KEYS[rows], run=run
                )
                left[rows] &= network.predict(adversarial).numpy() == y[rows]
        right.append(left)
    return np.array(right)


def test_equals_attacking_all_images_in_every_run(case):
    evaluator, (x, y), batches = case
    batches.clear()
    results = evaluator((x, y), BATCH)
    expected = uncompacted(evaluator, x, y)
    outcomes = np.stack([evaluator.outcomes_by_index[index] for index in range(COUNT)])
    np.testing.assert_array_equal(outcomes[:, 0, :, 0].T, expected)
    np.testing.assert_array_equal(outcomes[:, 0, 1:, 1].T, ~expected[1:])
    np.testing.assert_array_equal(evaluator.correct_images(), expected[[0, -1]])
    clean, attacked = results
    counts = expected.sum(1).tolist()
    assert (clean.correct, attacked.correct) == (counts[0], counts[-1])
    assert attacked.remaining == dict(
        zip(["APGD-CE", "APGD-T", "FAB-T", "Square"], counts[1:], strict=True)
    )
    assert counts[0] > counts[1] > counts[-1] > 0, counts
    assert (attacked.name, attacked.regained) == ("AutoAttack", 0)
    assert attacked.hits == COUNT - counts[-1]
    # Each part attacks what is left before it: once for each of its targets, if it fools none.
    assert [cost["images"] for cost in attacked.cost.values()] == counts[:-1]
    assert list(attacked.cost) == list(attacked.remaining)
    passes = [cost["passes"] for cost in attacked.cost.values()]
    assert passes[0] == 3 * counts[0] and passes[3] == 60 * counts[3]
    assert 3 * counts[1] < passes[1] <= 3 * 3 * counts[1]
    assert all(cost["seconds"] > 0 for cost in attacked.cost.values())

    # Nothing is attacked that was settled before, or twice by one run; and batches are full.
    for number, label in enumerate(["APGD-CE", "APGD-T", "FAB-T", "Square"]):
        for run in {run for name, run, _ in batches if name == label}:
            attacked = [indices for name, r, indices in batches if (name, r) == (label, run)]
            together = sum(attacked, [])
            assert len(set(together)) == len(together)
            assert set(together) <= set(np.flatnonzero(expected[number]))
            assert all(len(indices) == BATCH for indices in attacked[:-1])


@pytest.mark.parametrize(
    "size", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_counts_the_same(case, together, size):
    evaluator, data, _ = case
    expected = evaluator(data, BATCH)
    assert together(size, lambda rank: evaluator(data, BATCH)) == [expected] * size


@pytest.mark.parametrize("size", [1, 3])
def test_a_killed_evaluation_resumes_and_repeats_no_run(case, together, tmp_path, size):
    evaluator, data, batches = case
    expected = evaluator(data, BATCH)
    batches.clear()
    outcomes = evaluator.outcomes

    def run(rank=0):
        return evaluator(data, BATCH, journal=evaluation.Journal(tmp_path, {}))

    for kill_after in (6, 7, 8):
        left = iter(range(kill_after))

        def deadly(*given, left=left):
            if next(left, None) is None:
                raise ValueError("killed")
            return outcomes(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluator, "outcomes", deadly)
            with pytest.raises(ValueError, match="killed"):
                run()
    journal = evaluation.Journal(tmp_path, {})
    assert journal.read((1, 5, 3)) and journal.read_unfinished((1, 5, 3))
    # The images are now those of other workers, too.
    results = together(size, run)
    assert results == [expected] * size
    # The cost counts what was attacked before the kills.
    for _, attacked in results:
        for part, cost in expected[1].cost.items():
            assert attacked.cost[part]["images"] == cost["images"]
            assert attacked.cost[part]["passes"] == cost["passes"]
            assert attacked.cost[part]["seconds"] > 0
    pairs = [(label, number, i) for label, number, indices in batches for i in indices]
    assert len(set(pairs)) == len(pairs)
    batches.clear()
    assert run() == expected and not batches


def evaluated_resumed_and_killed(folder, before, now):
    """Three evaluations by the same workers, for the test below.

    Args:
        folder: Directory of the journals.
        before: Name of the journal of an evaluation that was killed.
        now: Name of the journal of one that is killed here.

    Returns:
        The results of a whole evaluation and of one that continues `before`, and what this worker
        attacked in each of the three: a list of (attack, number of its run, image).
    """
    evaluator, data, batches = make_case()
    outcomes, attacked = evaluator.outcomes, []

    def note():
        attacked.append([(label, run, index) for label, run, all in batches for index in all])
        batches.clear()

    results = [evaluator(data, BATCH)]
    note()
    results.append(evaluator(data, BATCH, journal=evaluation.Journal(f"{folder}/{before}", {})))
    note()

    def deadly(run, *given):
        if len(batches) == 3:
            raise InterruptedError
        return outcomes(run, *given)

    evaluator.outcomes = deadly
    with pytest.raises(InterruptedError):  # in each worker, before it is done
        evaluator(data, BATCH, journal=evaluation.Journal(f"{folder}/{now}", {}))
    note()
    return results, attacked


def worker_evaluated_resumed_and_killed(*given):
    autoattack._VERSIONS["standard"] = PARTS
    return evaluated_resumed_and_killed(*given)


@pytest.mark.slow
def test_real_workers_count_and_resume_as_one_process(few_steps, tmp_path):
    """1, 2, 3 and 5 workers, each time continuing what others were killed in; none divides 37."""
    launches = [[evaluated_resumed_and_killed(str(tmp_path), "none", "1")]]
    for before, size in ((1, 2), (2, 3), (3, 5)):
        given = str(tmp_path), str(before), str(size)
        launches.append(workers.run(worker_evaluated_resumed_and_killed, size, *given))
    launches.append([evaluated_resumed_and_killed(str(tmp_path), "5", "end")])
    [([expected, _], [everything, _, _])] = launches[0]
    assert len(set(everything)) == len(everything) > 100
    for launch in launches:
        for results, _ in launch:
            assert results == [expected] * 2
            for _, result in results:  # the cost of an evaluation is known before its kill, too
                for part, cost in expected[1].cost.items():
                    assert result.cost[part]["images"] == cost["images"]
                    assert result.cost[part]["passes"] == cost["passes"]
        assert sorted(sum((attacked[0] for _, attacked in launch), [])) == sorted(everything)
    for killed, resumed in itertools.pairwise(launches):
        before = sum((attacked[2] for _, attacked in killed), [])
        after = sum((attacked[1] for _, attacked in resumed), [])
        assert before and after
        # Everything is attacked, and nothing twice.
        assert sorted(before + after) == sorted(everything)


def test_restarts_of_pgd_drop_images_too():
    from tfadv.attacks import PGD

    model = cases.regression()
    x, y = cases.images(model, COUNT)
    attack = PGD(6, num_steps=2, targeted=False, restarts=3)
    evaluator = evaluation.Evaluator(model, attack)
    started = []
    start = evaluator.start

    def noted(images, labels, indices, num_classes, restart=0):
        started.append((restart, indices[indices >= 0].tolist()))
        return start(images, labels, indices, num_classes, restart)

    evaluator.start = noted
    evaluator((x, y), BATCH)
    counts = [sum(len(i) for r, i in started if r == restart) for restart in range(3)]
    assert counts[0] == COUNT and counts[0] > counts[1] >= counts[2] > 0


def test_the_table_shows_what_is_left_after_each_part(case):
    evaluator, data, _ = case
    results = evaluator(data, BATCH)
    clean, attacked = results
    lines = evaluation.table(results).splitlines()
    assert [line[:15].strip() for line in lines[1:]][:6] == [
        "clean", "after APGD-CE", "after APGD-T", "after FAB-T", "after Square", "AutoAttack"
    ]  # fmt: skip
    assert f"{100 * attacked.remaining['APGD-T'] / COUNT:.1f} [" in lines[3]
    assert lines[0].split()[-3:] == ["success", "images", "seconds"]
    assert lines[2].split()[-2] == str(clean.correct) and lines[1].endswith("]")
    seconds = [float(line.split()[-1]) for line in lines[2:7]]
    assert seconds[-1] == pytest.approx(sum(seconds[:-1]), abs=0.3)
    assert lines[-1] == (
        f"percent; untargeted AutoAttack in L-infinity: epsilon 3 of 255; restarts 1; {COUNT} "
        "images, seed 4"
    )
    document = json.loads(json.dumps(attacked.as_dict()))
    assert document["remaining"] == attacked.remaining and document["cost"] == attacked.cost
    assert "remaining" not in clean.as_dict()
    assert evaluator.identity["attack"]["label"] == "AutoAttack"


def test_a_long_attack_says_on_the_way_that_it_is_alive(case, monkeypatch):
    from tfadv import watchdog
    from tfadv.attacks import square

    evaluator, (x, y), _ = case
    expected = evaluator((x, y), BATCH)
    beats = []
    monkeypatch.setattr(watchdog, "beat", beats.append)
    monkeypatch.setattr(square, "_AT_ONCE", 20)
    assert evaluator((x, y), BATCH) == expected
    monkeypatch.setattr(square, "_AT_ONCE", 60)
    fewer = len(beats)
    beats.clear()
    assert evaluator((x, y), BATCH) == expected
    assert fewer >= len(beats) + 2  # 60 queries in three pieces


def test_progress_ends_with_the_last_batch(case):
    evaluator, data, _ = case
    shown = []
    evaluator(data, BATCH, progress=lambda *done: shown.append(done))
    total = -(-COUNT // BATCH)
    assert shown[-1] == (total, total) and shown == sorted(set(shown))
    assert len(shown) >= 4  # though hardly an image was finished before all were read
    stream = io.StringIO()
    evaluator(data, BATCH, progress=evaluation.progress_bar(stream=stream))
    assert stream.getvalue().endswith(f"evaluate {total}/{total} batches\n")


def test_a_network_of_three_classes_is_refused(few_steps):
    import keras

    inputs = keras.Input(cases.SHAPE)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    x = np.zeros([4, *cases.SHAPE], "float32")
    with pytest.raises(ValueError, match="^loss='targeted_dlr' needs at least 4 classes; rec"):
        evaluation.evaluate(model, (x, [0, 1, 2, 0]), AutoAttack(3), value_range=(0, 255))
