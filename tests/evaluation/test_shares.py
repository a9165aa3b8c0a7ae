"""Workers that hold all images, or a share each, or neither; threads of this process."""

import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import cases
from tfadv import data, distributed, evaluation
from tfadv.attacks import PGD
from tfadv.evaluation import shares

COUNT = 31


@pytest.fixture
def together(monkeypatch):
    """Runs a function of the rank on several workers, and returns what each returned or raised."""

    def run(size, function):
        here, barrier, given = threading.local(), threading.Barrier(size, timeout=60), [None] * size
        results = [None] * size

        def gather(mine):
            given[here.rank] = mine
            barrier.wait()
            everyone = list(given)
            barrier.wait()
            return everyone

        def work(rank):
            here.rank = rank
            try:
                results[rank] = function(rank)
            except ValueError as error:
                results[rank] = str(error)

        with monkeypatch.context() as patch:
            patch.setattr(distributed, "size", lambda: size)
            patch.setattr(distributed, "rank", lambda: here.rank)
            patch.setattr(distributed, "gather_object", gather)
            patch.setattr(distributed, "total", lambda x: np.sum(gather(np.asarray(x)), axis=0))
            threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return results

    return run


@pytest.fixture(scope="module")
def case():
    """What evaluates, alike for all workers, and images."""
    model = cases.regression()
    evaluator = evaluation.Evaluator(model, PGD(6, restarts=2), [1, 3], seed=9)
    return evaluator, *cases.images(model, COUNT)


def as_given(kind, x, y):
    if kind == "tf.data":
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    if kind == "dataset":
        return data.ArrayDataset("made", (x, y), (x, y), cases.CLASSES)
    return x, y


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "dataset"])
@pytest.mark.parametrize("limit", [None, 8, 2])
def test_shares_dealt_in_turn_count_as_the_whole_set(together, case, kind, limit):
    evaluator, x, y = case
    expected = evaluator((x, y), 4, limit)
    given = [as_given(kind, x[rank::3], y[rank::3]) for rank in range(3)]
    found = together(3, lambda rank: evaluator(given[rank], 4, limit))
    # Down to the images that the attack fools, whose random draws are those of their indices.
    assert found == [expected] * 3
    assert expected[0].total == (limit or COUNT)


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "dataset"])
def test_all_images_on_every_worker_are_shared_out(together, case, kind):
    evaluator, x, y = case
    given = as_given(kind, x, y)
    assert together(2, lambda rank: evaluator(given, 4)) == [evaluator((x, y), 4)] * 2


def test_any_shares_count_every_image_once(together, case):
    evaluator, x, y = case
    given = [(x[:4], y[:4]), (x[4:], y[4:])]
    first, second = together(2, lambda rank: evaluator(given[rank], 4))
    expected = evaluator((x, y), 4)
    assert first == second
    assert first[0] == expected[0]  # clean images; the others' draws are in another order
    assert [result.total for result in first] == [COUNT] * 3


START = "data must be all images on every worker, in one order, or a share of its own on each; "


@pytest.mark.parametrize(
    "held, message",
    [
        (
            [slice(0, 20), slice(10, 31)],
            "received 20 images on worker 0 and 21 images on worker 1, 10 of those on worker 1 are "
            "on worker 0 too",
        ),
        (
            [slice(None), slice(None), slice(5)],
            "received 31 images on workers 0 and 1 and 5 images on worker 2, 31 of those on worker "
            "1 are on worker 0 too",
        ),
        (
            [slice(0, 10), slice(10, 20), slice(10, 20)],
            "received 10 images on workers 0, 1 and 2, 10 of those on worker 2 are on worker 1 too",
        ),
        (
            [slice(None), slice(None, None, -1)],
            "received 31 images on workers 0 and 1, the same ones in another order or with other "
            "labels",
        ),
    ],
)
def test_anything_else_says_which_workers_hold_what(together, case, held, message):
    _, x, y = case
    found = together(len(held), lambda rank: shares.compare((x[held[rank]], y[held[rank]]), None))
    assert found == [START + message] * len(held)


def test_other_labels_and_other_data_sets_are_refused(together, case):
    _, x, y = case
    found = together(2, lambda rank: shares.compare((x, y + rank), None))
    assert found[0] == found[1] and found[0].endswith("in another order or with other labels")

    class OnDisk:
        name, image_shape = "imagenet", (8, 8, 3)
        validation_batches = None

        def __init__(self, number):
            self.num_validation = number

    assert together(2, lambda rank: shares.compare(OnDisk(100), None)) == [None] * 2
    found = together(2, lambda rank: shares.compare(OnDisk(100 - rank), None))
    assert found == [
        f"{START}received imagenet, 100 images of shape (8, 8, 3) on worker 0 and imagenet, 99 "
        "images of shape (8, 8, 3) on worker 1"
    ] * 2  # fmt: skip
    found = together(2, lambda rank: shares.compare((x, y) if rank else OnDisk(31), None))
    assert found[0] == found[1] and found[0].endswith("on worker 0 and 31 images on worker 1")


def test_doubles_within_a_data_set_are_told(together):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 2, 2, 1)).astype("uint8")
    x[300] = x[7]
    y = np.zeros(400, int)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = together(2, lambda rank: shares.compare((x[rank::2], y[rank::2]), None))
        assert found[0] is None or found == [found[0]] * 2
        halves = together(2, lambda r: shares.compare((x[200 * r :][:200], y[:200]), None))
    assert isinstance(halves[0], str) and halves[0] == halves[1] != found[0]
    text = "1 images are on more than one worker, and count on each of them"
    assert [str(each.message) for each in warned] == [text] * 2


def test_a_mistake_in_one_workers_data_is_told_by_all(together, case):
    evaluator, x, y = case
    given = [(x, y), (x[:0], y[:0])]
    found = together(2, lambda rank: evaluator(given[rank], 4))
    assert found[0] == found[1]
    assert found[0].startswith("data must be at least one image") and found[0].endswith(
        "(on worker 1)"
    )


def test_data_are_read_for_it_once(together, case):
    evaluator, x, y = case
    read = []

    def batches(rank):
        read.append(rank)
        yield x[rank::2], y[rank::2]

    spec = (tf.TensorSpec([None, *cases.SHAPE], tf.uint8), tf.TensorSpec([None], tf.int64))

    def work(rank):
        own = evaluation.Evaluator(evaluator.model)
        given = tf.data.Dataset.from_generator(lambda: batches(rank), output_signature=spec)
        for _ in range(2):
            own.open(given, 4)
        own.open(given, 4, limit=3)
        assert sum(each == rank for each in read) == 1
        own(given, 4)
        return sum(each == rank for each in read)

    assert together(2, work) == [2, 2]


def test_a_journal_goes_on_with_the_same_shares_alone(together, case, tmp_path):
    evaluator, x, y = case

    def run(slices):
        given = [(x[rows], y[rows]) for rows in slices]

        def work(rank):
            journal = evaluation.Journal(tmp_path, {})
            found = evaluator(given[rank], 4, journal=journal)
            return found, len(list(tmp_path.glob(f"{rank:04d}-*")))

        return together(2, work)

    first = run([slice(0, None, 2), slice(1, None, 2)])
    again = run([slice(0, None, 2), slice(1, None, 2)])
    assert again == first  # nothing is attacked again, and so no file was added
    other = run([slice(4), slice(4, None)])
    assert [number for _, number in other] == [2, 2]
    assert other[0][0][0] == first[0][0][0]
