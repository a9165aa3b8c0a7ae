"""The files of a report: Markdown, CSV and figures."""

import json
import pathlib

import matplotlib
import numpy as np
import pytest

from tfadv.paper import figures

ROOT = pathlib.Path(__file__).resolve().parents[2]

ADV = ["--clean_ratio=0"]


def tables_of(markdown, name):
    """The lines of a table in Markdown."""
    after = markdown.split(f"### {name}:")[1].splitlines()[2:]
    return after[: after.index("")]


def test_markdown_and_csv_of_one_run(make_run, result, make_report):
    values = {0: 62.0, 10: 52.0, 20: 50.0, 100: 42.0, 500: 40.0, 2000: 39.0}
    path = make_run("a", ADV, [result(n, value) for n, value in values.items()])
    files = make_report(path).files()
    assert tables_of(files["report.md"], "Table 2") == [
        "| training strategy | ours | paper | difference |",
        "| :-- | --: | --: | --: |",
        "| 100% adv + 0% clean | 39.0 [38.6, 39.4] | 39.2 | -0.2 [-0.6, +0.2] |",
        "| 100% adv + 0% clean\\* | - | 42.2 (+3.0) | - |",
        "| MBN\\_adv, 100% adv + 100% clean | - | 38.3 | - |",
        "| MBN\\_adv, 100% adv + 100% clean\\* | - | 39.9 (+1.6) | - |",
        "| MBN\\_adv, 100% adv + 100% clean, ALP | - | 35.3 | - |",
        "| MBN\\_adv, 100% adv + 100% clean, ALP\\* | - | 38.1 (+2.8) | - |",
    ]
    assert tables_of(files["report.md"], "Table 7") == [
        "| network | batch | training with | training strategy |  | clean | PGD-10 | PGD-20 "
        "| PGD-100 | PGD-500 | PGD-2000 |",
        "| :-- | :-- | :-- | :-- | :-- | --: | --: | --: | --: | --: | --: |",
        "| ResNet-152 | 4096 | PGD-30 | 100% adv + 0% clean | ours | 62.0 [61.6, 62.4] "
        "| 52.0 [51.6, 52.4] | 50.0 [49.6, 50.4] | 42.0 [41.6, 42.4] | 40.0 [39.6, 40.4] "
        "| 39.0 [38.6, 39.4] |",
        "|  |  |  |  | paper | 62.3 | 52.5 | 50.0 | 41.7 | 39.6 | 39.2 |",
        "|  |  |  |  | difference | -0.3 [-0.7, +0.1] | -0.5 [-0.9, -0.1] | 0.0 [-0.4, +0.4] "
        "| +0.3 [-0.1, +0.7] | +0.4 [0.0, +0.8] | -0.2 [-0.6, +0.2] |",
    ]
    lines = files["table2.csv"].splitlines()
    assert lines[0] == (
        "training strategy,measured,ours,low,high,spread,n,change,paper,paper_change,"
        "difference,difference_low,difference_high,runs"
    )
    # Wilson's interval of 19,500 of 50,000, by hand: 38.9983 -+ 0.4275.
    assert lines[1] == (
        "100% adv + 0% clean,PGD-2000,39.000,38.573,39.428,,1,,39.200,,-0.200,-0.627,0.228,runs/a"
    )
    assert lines[2] == "100% adv + 0% clean*,PGD-2000,,,,,0,,42.200,3.000,,,,"
    assert files["results.csv"].splitlines()[1] == (
        "runs/a,evaluation.json,paper,ResNet-152,4096,PGD-30,100% adv + 0% clean,,clean,,"
        "31000,50000,62.000,61.574,62.425,62.300,-0.300,yes"
    )
    # Figure 2 would compare it with strategies that no run has.
    assert [name for name in files if "figure" in name] == ["figure1.png", "figure1.svg"]


def test_several_seeds_are_their_mean_and_spread(make_run, result, make_report, read):
    paths = [
        make_run(f"{seed}", [*ADV, f"--seed={seed}"], [result(2000, value)])
        for seed, value in ((1, 38.0), (2, 39.0), (3, 41.5))
    ]
    files = make_report(*paths).files()
    mean, deviation = np.mean([38.0, 39.0, 41.5]), np.std([38.0, 39.0, 41.5], ddof=1)
    assert f"| {mean:.1f} ± {deviation:.1f} (n=3) | 39.2 | +0.3 |" in files["report.md"]
    row = read(files["table2.csv"]).iloc[0]
    assert (row["ours"], row["spread"], row["n"]) == (mean, round(deviation, 3), 3)
    assert np.isnan(row["low"]) and row["difference"] == round(mean - 39.2, 3)
    assert row["runs"] == "runs/1 runs/2 runs/3"


def test_results_of_several_files_come_together(make_run, result, make_report, read):
    make_run("a", ADV, [result(10, 52.0), result(20, 50.0)])
    make_run("a", ADV, [result(10, 52.0), result(20, 49.0)], file="again.json")
    path = make_run("a", ADV, [result(2000, 39.0)], file="strong.json")
    report = make_report(path)
    results = read(report.files()["results.csv"])
    assert results[["measured", "ours", "file"]].values.tolist() == [
        ["PGD-10", 52, "evaluation.json"],
        ["PGD-20", 50, "evaluation.json"],
        ["PGD-2000", 39, "strong.json"],
    ]
    assert report.problems == [
        "runs/a: again.json: PGD-20 is in evaluation.json too, with other numbers or another seed; "
        "that one counts"
    ]


def test_the_report_has_the_doubts_of_evaluations(make_run, result, make_report):
    doubt = dict(check="more steps", domain=None, message="PGD-20 leaves more right than PGD-10")
    path = make_run("a", ADV, [result(2000, 39.0)], doubts=[doubt])
    make_run("a", ADV, [result(10, 52.0)], file="quick.json", doubts=None)
    assert (
        "- runs/a: evaluation.json: more steps: PGD-20 leaves more right than PGD-10\n"
        in make_report(path).files()["report.md"]
    )


@pytest.mark.parametrize(
    "content,reason",
    [
        ("{", "Expecting property name"),
        ('{"results": [{"num_steps": 0}]}', "not a results file of tfadv.evaluate (TypeError"),
    ],
)
def test_unreadable_files_are_named_and_the_others_are_reported(
    make_run, result, make_report, tmp_path, content, reason
):
    path = make_run("a", ADV, [result(2000, 39.0)])
    (tmp_path / path / "broken.json").write_text(content)
    (tmp_path / path / "other.json").write_text(json.dumps({"loss": 1}))
    make_run("b", ADV, [])
    make_run("c", ADV, [result(2000, 39.0, domain="adv")])
    (tmp_path / "runs" / "d").mkdir()
    report = make_report("runs/a", "runs/b", "runs/c", "runs/d", "runs/a/")
    assert [set(run["run"]) for run in report.runs] == [{"runs/a"}]
    broken, unfinished, branch, *rest = report.problems
    assert broken.startswith("runs/a/broken.json: cannot be read: ") and reason in broken
    assert unfinished == "runs/b: not evaluated yet (python -m tfadv.evaluate)"
    assert branch == "runs/c: evaluation.json: PGD-2000 is of a branch (adv), of norm=bn"
    assert rest == ["runs/d: no run of tfadv.train (no flags.txt)"]
    text = report.files()["report.md"]
    assert all(f"- {problem}" in text for problem in report.problems)


def test_the_small_report_of_docs_is_what_its_counts_give(make_run, result, make_report):
    text = (ROOT / "docs" / "small" / "report.md").read_text(encoding="utf-8")
    percents = {}
    for line in tables_of(text, "As Table 7")[2:]:
        _, _, _, strategy, *cells = line.replace("\\", "").strip("| ").split(" | ")
        percents[strategy] = [float(cell.split()[0]) for cell in cells]
    bn = "100% adv + 100% clean"
    strategies = {f"clean{r}": f"100% adv + {r}% clean" for r in (0, 20, 40, 60, 80, 100)}
    strategies |= {"alp": f"{bn}, ALP", "clean0-running": "100% adv + 0% clean*", "gn": f"GN, {bn}"}
    strategies |= {"mbn": bn, "mbn-alp": f"{bn}, ALP", "mbn-running": f"{bn}*"}
    strategies["clean_only"] = "0% adv + 100% clean"
    for name, strategy in strategies.items():
        row = "table1/clean_only" if name == "clean_only" else f"table7/resnet152-pgd30-{name}"
        flags = [f"--flagfile=flags/{row}.flags", "--flagfile=flags/small.flags"]
        flags.append(f"--running_statistics={4 if name.endswith('running') else 0}")
        results = []
        for domain in ("adv", "clean") if name.startswith("mbn") else (None,):
            label = f"MBN_{domain}, {strategy}" if domain else strategy
            results += [
                result(steps, percent, total=360, domain=domain, epsilon=80.0)
                for steps, percent in zip((0, 10, 20, 100, 500), percents.pop(label), strict=True)
            ]
        make_run(f"small/{name}", flags, results, dataset="digits", image_shape=[8, 8, 1])
    assert not percents
    files = make_report("runs/small").files()
    assert files["report.md"] == text
    pictures = {path.name for path in (ROOT / "docs" / "small").glob("*.png")}
    assert {name for name in files if name.endswith(".png")} == pictures


def test_figures_draw_the_numbers_and_give_equal_bytes(make_run, result, make_report):
    paths = [
        make_run(
            f"{ratio}", [f"--clean_ratio={ratio}"], [result(n, v) for n, v in ((10, 50), (2000, y))]
        )
        for ratio, y in ((0, 39), (0.4, 30), (1, 21))
    ]
    charts = {chart.name: chart for chart in figures.charts(make_report(*paths).paper)}
    assert list(charts) == ["Figure 1", "Figure 2"]
    figure = figures.draw(charts["Figure 1"])
    [ax] = figure.axes
    drawn = [line for line in ax.get_lines() if len(line.get_xdata()) > 1]
    paper, ours = drawn[0], next(line for line in drawn if len(line.get_xdata()) == 3)
    assert list(paper.get_xdata()) == [0, 20, 40, 60, 80, 100] and paper.get_linestyle() == "--"
    assert list(paper.get_ydata()) == [39.2, 32.1, 29.1, 15.3, 20.3, 20.9]
    assert list(ours.get_xdata()) == [0, 40, 100]
    assert list(ours.get_ydata()) == pytest.approx([39, 30, 21])
    assert ax.get_xlim() == (103, -3) and ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "accuracy against PGD-2000 (%)"
    steps = figures.draw(charts["Figure 2"]).axes[0]
    assert steps.get_xscale() == "log"
    assert {text.get_text() for text in steps.texts} == {
        "100% adv + 0% clean", "100% adv + 100% clean"
    }  # fmt: skip
    before = dict(matplotlib.rcParams)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        image, again = (figures.render(figures.draw(charts["Figure 1"]), kind) for _ in range(2))
        assert image == again
        assert image.startswith(start)
    assert before == dict(matplotlib.rcParams)


def test_shares_of_clean_images_in_separate_calls_are_a_curve_of_their_own(
    make_run, result, make_report
):
    percents = {(0, "together"): 80, (0.4, "together"): 70, (1, "together"): 60}
    percents |= {(0.4, "apart"): 50, (1, "apart"): 40}
    paths = [
        make_run(
            f"{how}{ratio}",
            [f"--clean_ratio={ratio}", f"--batch_statistics={how}"],
            [result(10, percent, total=360, epsilon=80.0)],
            dataset="digits",
            image_shape=[8, 8, 1],
        )
        for (ratio, how), percent in percents.items()
    ]
    [section] = make_report(*paths).others.values()
    curves = {
        label: points.set_index("x")["ours"].round().to_dict()
        for label, points in figures.charts(section)[0].points.groupby("label")
    }
    # Without clean images there is one domain and one call, so both curves end there.
    assert curves == {
        "100% adv + r% clean": {0: 80, 40: 70, 100: 60},
        "100% adv + r% clean, apart": {0: 80, 40: 50, 100: 40},
    }


def test_labels_are_moved_apart_as_little_as_needed():
    assert figures._apart([0, 10], 3) == [0, 10]
    assert figures._apart([5, 5, 5], 2) == [3, 5, 7]
    assert figures._apart([0, 5, 6], 3) == [0, 4, 7]
