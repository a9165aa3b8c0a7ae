"""Workers that hold all images, or a share each, or neither."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import cases
from tfadv import data, evaluation
from tfadv.attacks import PGD
from tfadv.evaluation import shares
from tfadv.evaluation.sources import open_source

COUNT = 31


@pytest.fixture(scope="module")
def case():
    """An evaluator, which all workers share, and images."""
    model = cases.regression()
    evaluator = evaluation.Evaluator(model, PGD(6, restarts=2), [1, 3], seed=9)
    return evaluator, *cases.images(model, COUNT)


def as_kind(kind, x, y):
    if kind == "tf.data":
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    if kind == "dataset":
        return data.ArrayDataset("pixels", (x, y), (x, y), cases.CLASSES)
    if kind == "dictionaries":
        return {"image": x}, {"label": y}
    return x, y


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "dataset"])
@pytest.mark.parametrize("limit", [None, 8, 2])
def test_shares_dealt_in_turn_count_as_the_whole_set(together, case, kind, limit):
    evaluator, x, y = case
    expected = evaluator((x, y), 4, limit)
    given = [as_kind(kind, x[rank::3], y[rank::3]) for rank in range(3)]
    # The attack succeeds on the same images, because they have the same random draws.
    assert together(3, lambda rank: evaluator(given[rank], 4, limit)) == [expected] * 3
    assert expected[0].total == (limit or COUNT)


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "dataset", "dictionaries"])
def test_all_images_on_every_worker_are_shared_out(together, case, kind):
    evaluator, x, y = case
    given = as_kind(kind, x, y)
    assert together(2, lambda rank: evaluator(given, 4)) == [evaluator((x, y), 4)] * 2


def test_any_shares_count_every_image_once(together, case):
    evaluator, x, y = case
    given = [(x[:4], y[:4]), (x[4:], y[4:])]
    first, second = together(2, lambda rank: evaluator(given[rank], 4))
    expected = evaluator((x, y), 4)
    assert first == second
    assert first[0] == expected[0]  # clean images; under attack, the images have other draws
    assert [result.total for result in first] == [COUNT] * 3


START = "data must be all images on every worker, in one order, or a share of its own on each; "


def compare(together, *given):
    """Returns what `shares.compare` returned or raised on each worker."""
    return together(
        len(given),
        lambda rank: shares.compare(given[rank], open_source(given[rank], 8, None, 0, 1)),
    )


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
def test_other_divisions_are_refused(together, case, held, message):
    _, x, y = case
    errors = compare(together, *[(x[rows], y[rows]) for rows in held])
    assert errors == [START + message] * len(held)


class InFiles:
    """A data set whose images are not read in order to compare it."""

    name, image_shape, num_classes = "imagenet", (8, 8, 3), 1000

    def __init__(self, number):
        self.num_validation = number

    def validation_batches(self, batch_size, **kwargs):
        return tf.data.Dataset.range(1)


def test_other_labels_and_other_data_sets_are_refused(together, case):
    _, x, y = case
    errors = compare(together, (x, y), (x, y + 1))
    assert errors[0] == errors[1] and errors[0].endswith("in another order or with other labels")
    assert compare(together, InFiles(100), InFiles(100)) == [None] * 2
    assert compare(together, InFiles(100), InFiles(99)) == [
        f"{START}received imagenet, 100 images of shape (8, 8, 3) on worker 0 and imagenet, 99 "
        "images of shape (8, 8, 3) on worker 1"
    ] * 2  # fmt: skip
    errors = compare(together, InFiles(31), (x, y))
    assert errors[0] == errors[1] and errors[0].endswith("on worker 0 and 31 images on worker 1")


def test_a_few_images_on_two_workers_are_a_warning(together):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 2, 2, 1)).astype("uint8")
    x[300] = x[7]
    y = np.zeros(400, int)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        in_turn = compare(together, (x[::2], y[::2]), (x[1::2], y[1::2]))
        halves = compare(together, (x[:200], y[:200]), (x[200:], y[200:]))
    for divisions in (in_turn, halves):
        assert isinstance(divisions[0], str) and divisions == [divisions[0]] * 2
    assert halves[0] != in_turn[0]
    text = "1 images are on more than one worker, and count on each of them"
    assert [str(each.message) for each in warned] == [text] * 2


def test_an_error_in_one_workers_data_is_raised_on_all(together, case):
    evaluator, x, y = case
    given = [(x, y), (x[:0], y[:0])]
    first, second = together(2, lambda rank: evaluator(given[rank], 4))
    assert first == second and first.startswith("data must be at least one image")
    assert first.endswith("(on worker 1)")


def test_data_are_read_only_once_to_compare_them(together, case):
    evaluator, x, y = case
    reads = []

    def batches(rank):
        reads.append(rank)
        yield x[rank::2], y[rank::2]

    spec = (tf.TensorSpec([None, *cases.SHAPE], tf.uint8), tf.TensorSpec([None], tf.int64))

    def work(rank):
        own = evaluation.Evaluator(evaluator.model)
        given = tf.data.Dataset.from_generator(lambda: batches(rank), output_signature=spec)
        for _ in range(2):
            own.open(given, 4)
        own.open(given, 4, limit=3)
        assert reads.count(rank) == 1
        own(given, 4)
        return reads.count(rank)

    assert together(2, work) == [2, 2]


def test_a_journal_resumes_only_with_the_same_shares(together, case, tmp_path):
    evaluator, x, y = case

    def run(slices):
        given = [(x[rows], y[rows]) for rows in slices]

        def work(rank):
            journal = evaluation.Journal(tmp_path, {})
            results = evaluator(given[rank], 4, journal=journal)
            return results, len(list(tmp_path.glob(f"{rank:04d}-*")))

        return together(2, work)

    first = run([slice(0, None, 2), slice(1, None, 2)])
    again = run([slice(0, None, 2), slice(1, None, 2)])
    assert again == first  # no image is attacked again, and no file is added
    other = run([slice(4), slice(4, None)])
    assert [number for _, number in other] == [2, 2]
    assert other[0][0][0] == first[0][0][0]
