"""Intervals, the table, the JSON file, TensorBoard scalars and the progress line."""

import base64
import io
import json
import os

import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tfadv import distributed, evaluation
from tfadv.evaluation import Result
from tfadv.event_files import read_scalars

ATTACK = dict(
    attack="PGD",
    epsilon=16.0,
    step_size_rule="pipeline",
    targeted=True,
    loss="cross_entropy",
    start_from_clean=0.0,
    clip_start=False,
    restarts=1,
    precision="float32",
)


def row(domain, num_steps, correct, hits=None, step_size=1.0, total=500, **options):
    attack = {**ATTACK, "step_size": step_size, **options} if num_steps else {}
    return Result(
        domain=domain, num_steps=num_steps, correct=correct, hits=hits, total=total, **attack
    )


@pytest.mark.parametrize("correct, total", [(0, 1), (1, 1), (3, 7), (374, 500), (50000, 50000)])
def test_interval_is_wilsons(correct, total):
    result = row("adv", 0, correct, total=total)
    expected = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert result.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= result.interval[0] <= result.accuracy <= result.interval[1] <= 1


def test_accuracy_and_success_are_shares_of_the_counts():
    clean, attacked = row("adv", 0, 430), row("adv", 10, 374, 20, 1.6)
    assert (clean.name, clean.accuracy, clean.success) == ("clean", 0.86, None)
    assert (attacked.name, attacked.accuracy, attacked.success) == ("PGD-10", 0.748, 0.04)
    assert clean.as_dict()["epsilon"] is None
    assert attacked.as_dict() == {
        "domain": "adv",
        "num_steps": 10,
        "correct": 374,
        "total": 500,
        "hits": 20,
        "regained": None,
        **ATTACK,
        "step_size": 1.6,
        "seed": 0,
        "name": "PGD-10",
        "accuracy": 0.748,
        "success": 0.04,
        "interval": list(attacked.interval),
    }


RESULTS = [
    row("adv", 0, 430),
    row("adv", 10, 374, 20, 1.6),
    row("adv", 2000, 350, 35),
    row("clean", 0, 437),
    row("clean", 10, 35, 401, 1.6),
    row("clean", 2000, 0, 500),
]


def test_table_of_two_branches():
    assert evaluation.table(RESULTS).split("\n") == [
        "          adv branch                     clean branch",
        "          accuracy [95%]        success  accuracy [95%]        success",
        "clean      86.0 [82.7, 88.8]              87.4 [84.2, 90.0]",
        "PGD-10     74.8 [70.8, 78.4]        4.0    7.0 [5.1, 9.6]         80.2",
        "PGD-2000   70.0 [65.8, 73.9]        7.0    0.0 [0.0, 0.8]        100.0",
        "",
        "percent; targeted PGD in L-infinity: epsilon 16 of 255; step size 1.6 (PGD-10), 1 "
        "(PGD-2000), raised to epsilon/steps where larger; start random in the ball; restarts 1; "
        "loss cross_entropy; 500 images, seed 0",
    ]


def test_table_names_other_settings():
    options = dict(
        targeted=False, loss="margin", restarts=10, step_size_rule="fixed", start_from_clean=0.5
    )
    text = evaluation.table([row(None, 20, 5, 1, 2.5, **options)])
    assert text.split("\n") == [
        "        accuracy [95%]        success",
        "PGD-20    1.0 [0.4, 2.3]          0.2",
        "",
        "percent; untargeted PGD in L-infinity: epsilon 16 of 255; step size 2.5, fixed; start "
        "random in the ball, the image with probability 0.5; restarts 10; loss margin; 500 images, "
        "seed 0",
    ]
    for chance, start in (
        (0.0, "random in the ball and clipped to the range"),
        (0.5, "random in the ball and clipped to the range, the image with probability 0.5"),
        (1.0, "the image"),
    ):
        text = evaluation.table([row(None, 20, 5, clip_start=True, start_from_clean=chance)])
        assert f"; start {start}; restarts 1; " in text
    assert evaluation.table([row(None, 0, 5)]).endswith("percent; no attack, 500 images, seed 0")
    # A cell may be missing.
    assert "PGD-10 " in evaluation.table(RESULTS[:1] + RESULTS[3:])


def test_table_refuses_results_that_are_not_of_one_evaluation():
    for results in ([], RESULTS[:1] * 2):
        with pytest.raises(ValueError, match="^results must be at least one, and one for each"):
            evaluation.table(results)
    with pytest.raises(ValueError, match="^results must have one protocol; received epsilon of"):
        evaluation.table([*RESULTS[:2], row("adv", 20, 5, 5, epsilon=8.0)])


def test_json_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    evaluation.write_json(path, RESULTS, model="runs/x", data="digits")
    document = json.loads(path.read_text())
    assert (document["model"], document["data"]) == ("runs/x", "digits")
    assert document["results"] == [result.as_dict() for result in RESULTS]
    assert "correct_images" not in document
    images = np.random.default_rng(0).random((21, len(RESULTS))).T < 0.5  # as an Evaluator's
    evaluation.write_json(path, RESULTS, images)
    for row, packed in zip(images, json.loads(path.read_text())["correct_images"], strict=True):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8), count=21)
        np.testing.assert_array_equal(bits, row)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        evaluation.write_json(path, RESULTS, loss=float("nan"))

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        evaluation.write_json(path, RESULTS[:1])
    monkeypatch.undo()
    assert path.read_bytes() == before
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    evaluation.write_json(path, [])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


CLEAN, PGD = row("adv", 0, 375), row("adv", 10, 250, 125)
SCALARS = {"accuracy/clean": 0.75, "accuracy/pgd10": 0.5}
SUCCESS = {"attack_success/pgd10": 0.25}


def test_scalars_of_both_branches(tmp_path):
    evaluation.write_scalars(tmp_path, [CLEAN, PGD, row("clean", 10, 125, 125)], step=40)
    assert read_scalars(tmp_path) == {40: SCALARS | SUCCESS}
    assert read_scalars(tmp_path / "clean_branch") == {40: {"accuracy/pgd10": 0.25} | SUCCESS}


def test_scalars_of_evaluations_in_any_order(tmp_path, monkeypatch):
    evaluation.write_scalars(tmp_path, [CLEAN, PGD], step=40)
    for _ in range(2):
        evaluation.write_scalars(tmp_path, [row("adv", 0, 125)], step=10)
    evaluation.write_scalars(tmp_path, [row("adv", 10, 500)], step=40)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    evaluation.write_scalars(tmp_path, [row("adv", 0, 1)], step=50)
    assert read_scalars(tmp_path) == {
        10: {"accuracy/clean": 0.25},
        40: SCALARS | SUCCESS | {"accuracy/pgd10": 1.0},
    }
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Tensors("accuracy/clean")] == [10, 40]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line_estimates_the_time_left(monkeypatch):
    now = 0.0

    def show(stream, *batches, total):
        nonlocal now
        progress = evaluation.progress_bar("attack", stream, lambda: now)
        for seconds, done in batches:
            now = seconds
            progress(done, total)
        return stream.getvalue()

    # After the first batch, which compiles, 10 s each.
    text = show(Terminal(), (60.0, 1), (70.0, 2), (5000.0, 500), total=500)
    assert text.split("\r")[1:] == [
        f"{line:<60}{end}"
        for line, end in (
            ("attack 1/500 batches", ""),
            ("attack 2/500 batches, about 1 h 23 min left", ""),
            ("attack 500/500 batches", "\n"),
        )
    ]
    batches = [(0.0, 1), (6.0, 2), (9.0, 4), (12.0, 5), (14.0, 6), (15.0, 20)]
    assert show(io.StringIO(), *batches, total=20).splitlines() == [
        "attack 1/20 batches",
        "attack 5/20 batches, about 45 s left",  # ten seconds later, and another tenth
        "attack 20/20 batches",
    ]
    # Another evaluation by the same function, of data whose number of batches is unknown.
    progress = evaluation.progress_bar("attack", stream := io.StringIO(), lambda: now)
    for seconds, done, total in (0.0, 1, None), (20.0, 2, None), (21.0, 1, 2), (22.0, 2, 2):
        now = seconds
        progress(done, total)
    assert stream.getvalue().splitlines() == [
        "attack 1 batches",
        "attack 2 batches",
        "attack 1/2 batches",
        "attack 2/2 batches",
    ]
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert show(io.StringIO(), (0.0, 1), total=20) == ""


def test_a_worker_has_a_terminal_only_if_its_launcher_says_so(monkeypatch):
    """`mpirun` gives its workers one even where it writes to a file itself."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    progress = evaluation.progress_bar("attack", stream := Terminal(), lambda: 0.0)
    progress(1, 2)
    assert stream.getvalue() == "attack 1/2 batches\n"
    monkeypatch.setenv("TFADV_COLUMNS", "100")
    progress(2, 2)
    assert stream.getvalue().endswith("\r" + "attack 2/2 batches".ljust(60) + "\n")
