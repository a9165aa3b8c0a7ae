"""Findings: contrasts against known answers, and verdicts of runs made to hold or to break them."""

import base64
import io
import itertools
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tfadv.paper import findings

DIGITS = dict(dataset="digits", image_shape=[8, 8, 1], whole_validation_set=True)
FLAGS = ["--dataset=digits", "--network=small_resnet", "--depth=8", "--epochs=20"]
BN, ADV, CLEAN = [], ["--clean_ratio=0"], ["--adversarial=false"]
MBN = ["--norm=mbn"]


def test_a_contrast_of_one_group_of_one_run_is_the_interval_of_a_mean():
    values = np.random.default_rng(0).random((1, 50)) * 100
    result = findings.contrast([(1, values)])
    expected = stats.ttest_1samp(values[0], 0).confidence_interval()
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.value == pytest.approx(values.mean()) and "images alone" in str(result)


def test_a_contrast_of_two_runs_is_a_paired_interval():
    a, b = np.random.default_rng(1).random((2, 1, 40)) * 100
    result = findings.contrast([(1, a), (-1, b)])
    expected = stats.ttest_rel(a[0], b[0]).confidence_interval()
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_seeds_that_differ_on_all_images_alike_give_welchs_interval():
    # No image differs from another, so that all of the variance is that of the seeds.
    a, b = np.array([61.0, 64.0, 60.0]), np.array([55.0, 50.0])
    one = np.ones((1, 30))
    result = findings.contrast([(1, a[:, None] * one), (-1, b[:, None] * one)])
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.runs == (3, 2) and "images alone" not in str(result)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(2), 0
    for _ in range(300):
        difficulty = rng.normal(size=200)  # shared by both strategies
        groups = [
            100 * (difficulty + rng.normal(size=(3, 1)) / 4 + rng.normal(size=(3, 200)) / 2 > 0)
            for _ in range(2)
        ]
        result = findings.contrast(list(zip((1, -1), groups, strict=True)))
        held += result.low <= 0 <= result.high
    assert 0.93 <= held / 300 <= 1


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"at_least": 5}, "held"),
        ({"at_least": 6.5}, "undecided"),
        ({"at_least": 8.5}, "did not hold"),
        ({"at_most": 8}, "held"),
        ({"at_most": 7}, "undecided"),
        ({"at_most": 5.5}, "did not hold"),
    ],
)
def test_verdicts(limits, expected):
    assert findings.verdict(findings.Contrast(7, 6, 8, (2, 2)), **limits) == expected


def test_the_rank_correlation_has_an_exact_p():
    ratios, robust = [100, 80, 60, 40, 20, 0], [44, 48, 51, 49, 53, 54]
    rho, p = findings._rank_correlation(ratios, robust)
    assert rho == pytest.approx(stats.spearmanr(ratios, robust).statistic)
    as_negative = [
        stats.spearmanr(ratios, order).statistic <= rho + 1e-9
        for order in itertools.permutations(robust)
    ]
    assert p == pytest.approx(np.mean(as_negative))


def test_a_single_run_decides_nothing():
    assert findings.verdict(findings.Contrast(7, 6, 8, (1, 2)), at_least=5) == "undecided"


@pytest.fixture
def runs(make_run, result):
    """Function (name, flags, {steps: percent}, seeds) -> directories of evaluated runs."""
    images = np.arange(1000)

    def make(name, flags, accuracies, seeds=2, domain=None):
        directories = []
        for seed in range(seeds):
            # Of images that are ever harder, those up to a share are classified correctly.
            correct = [images < 10 * percent + seed for percent in accuracies.values()]
            results = [
                result(
                    *(n, row.mean() * 100, 1000, each),
                    **({"step_size": 6.0, "step_size_rule": "fixed"} if n else {}),
                )
                for each in (domain or [None])
                for n, row in zip(accuracies, correct, strict=True)
            ]
            packed = [base64.b64encode(np.packbits(row)).decode() for row in correct]
            directories.append(
                make_run(
                    f"{name}{seed}",
                    [*FLAGS, *flags, f"--seed={seed}"],
                    results,
                    correct_images=packed * len(domain or [None]),
                    **DIGITS,
                )
            )
        return directories

    return make


def answers(report):
    [section] = report.others.values()
    return {
        what: (figures, verdict)
        for finding in findings.findings(section)
        for what, figures, verdict in finding.answers
    }


def test_findings_of_runs(runs, make_report):
    report = make_report(
        *runs("bn", BN, {0: 90, 10: 70, 500: 50}),
        *runs("adv", ADV, {0: 80, 10: 68, 500: 65}),
        *runs("apart", ["--batch_statistics=apart"], {0: 90, 10: 66, 500: 60}),
        *runs("mbn", MBN, {0: 91, 10: 69, 500: 64}, domain=["adv", "clean"]),
        *runs("clean", CLEAN, {0: 93, 10: 2, 500: 1}),
        *runs("running", ["--running_statistics=2"], {0: 88, 10: 72, 500: 56}),
    )
    found = answers(report)
    # Falls of 20 and 3 points: 17 more.
    what = "fall of 100% adv + 100% clean less that of 100% adv + 0% clean"
    figures, verdict = found[what]
    assert figures.startswith("+17.0 [") and verdict == "held"
    apart = what.replace("clean less", "clean, apart less")
    assert found[apart][0].startswith("+3.0 [") and found[apart][1] != "held"
    mixture = found["MBN_adv, 100% adv + 100% clean less 100% adv + 0% clean"]
    assert mixture[0].startswith("-1.0 [") and mixture[1] == "held"
    branch = found["MBN_clean, 100% adv + 100% clean less 0% adv + 100% clean"]
    assert branch[0].startswith("-2.0 [") and branch[1] == "did not hold"
    running = found["100% adv + 100% clean* less 100% adv + 100% clean, PGD-500"]
    assert running[0].startswith("+6.0 [") and running[1] == "held"
    markdown = report.files()["report.md"]
    assert "#### The paper's findings in these runs" in markdown
    assert f"| {what} | +17.0 [" in markdown


def test_runs_without_outcomes_of_images_have_no_findings(make_run, result, make_report):
    path = make_run("a", [*FLAGS, *ADV], [result(n, 50, 1000) for n in (0, 10, 500)], **DIGITS)
    report = make_report(path)
    [section] = report.others.values()
    assert findings.findings(section) == []
    assert "findings" not in report.files()["report.md"]


def test_fewer_clean_images_and_fine_tuning(runs, make_report):
    directories = [
        directory
        for ratio, robust in ((100, 40), (80, 44), (60, 47), (40, 50), (20, 52), (0, 55))
        for directory in runs(
            f"r{ratio}", [f"--clean_ratio={ratio / 100}"], {0: 80, 500: robust, 10: 60}
        )
    ]
    tuned = ["--trainable=norm", "--init_from=runs/base/seed"]
    for seed in range(2):
        flags = [*tuned[:1], f"{tuned[1]}{seed}", f"--seed={seed}"]
        directories += runs(f"c{seed}", [*flags, *CLEAN], {0: 86, 10: 20, 500: 6}, seeds=1)
    found = answers(make_report(*directories))
    figures, verdict = found["PGD-500 accuracy by the share of clean images"]
    assert "rank correlation -1.00, p = 0.001" in figures and verdict == "held"
    what = "100% adv + 0% clean, fine-tuned on clean images, less before: clean images"
    assert found[what][0].startswith("+6.0 [") or found[what][0].startswith("+5.9 [")
    assert found[what][1] == "held"


def test_depth(runs, make_report):
    directories = []
    for depth, robust, clean in ((8, 50, 90), (14, 60, 92)):
        at = [f"--depth={depth}"]
        directories += runs(f"adv{depth}", [*ADV, *at], {0: 80, 10: 70, 500: robust})
        directories += runs(f"clean{depth}", [*CLEAN, *at], {0: clean, 10: 1, 500: 0})
    what = (
        "from SmallResNet-8 to SmallResNet-14: gain in adversarial training less gain in clean "
        "training"
    )
    figures, verdict = answers(make_report(*directories))[what]
    assert figures.startswith("+8.0 [") and verdict == "held"


def channels(seed, shift=0.0):
    """Statistics of two layers as `tfadv.inspect` writes them, the clean branch shifted."""
    rng = np.random.default_rng(seed)
    lines = ["layer,domain,channel,moving_mean,moving_variance,gamma,beta"]
    for layer in ("norm1", "norm2"):
        for domain in ("adv", "clean"):
            for channel, (mean, log) in enumerate(rng.normal(size=(64, 2))):
                mean += shift * (domain == "clean")
                lines.append(f"{layer},{domain},{channel},{mean},{np.exp(log)},1,0")
    return "\n".join(lines)


def test_the_distance_of_statistics_does_not_know_the_order_of_channels():
    table = pd.read_csv(io.StringIO(channels(0)))
    adv = table[table["domain"] == "adv"]
    assert findings.distance(adv, adv.sample(frac=1, random_state=0)) == pytest.approx(0)
    moved = adv.assign(moving_mean=adv["moving_mean"] + 3)
    expected = [
        3 / np.std([*layer["moving_mean"], *(layer["moving_mean"] + 3)]) / 2
        for _, layer in adv.groupby("layer")
    ]
    assert findings.distance(adv, moved) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("shift", "verdict"), [(2.0, "held"), (0.0, "undecided|did not hold")])
def test_statistics_of_branches_against_those_of_seeds(runs, make_report, shift, verdict):
    directories = runs("mbn", MBN, {0: 91, 10: 69, 500: 64}, domain=["adv", "clean"], seeds=3)
    for seed, directory in enumerate(directories):
        folder = pathlib.Path(directory, "inspection")
        folder.mkdir()
        (folder / "statistics.csv").write_text(channels(seed, shift))
    markdown = make_report(*directories).files()["report.md"]
    [line] = [line for line in markdown.splitlines() if "mixture: distance of all" in line]
    assert re.search(rf"\| ({verdict}) \|$", line) and "between seeds 0." in line
