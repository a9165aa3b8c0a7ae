"""Runs with exactly the paper's numbers: every table must be the paper's own."""

import numpy as np
import pytest

from tests.flags.cases import NUMBERS, ROWS, train
from tfadv.paper import figures

# Tables 1 to 6 as the paper prints them, partly as changes.
BN, ALP = "100% adv + 100% clean", "100% adv + 100% clean, ALP"
ADV = "100% adv + 0% clean"
PAPER = {
    1: "78.9 | +0.4 | -0.5 | 39.2 | -0.9 | -3.9",
    2: "39.2 | +3.0 | 38.3 | +1.6 | 35.3 | +2.8",
    3: "38.1 2.1 | 47.0 2.7 | 50.2 0.8 | 48.2 0.7 | 47.0 2.1 | 47.5 2.9 | 47.3 3.3 | 48.8 23.0",
    4: "39.2 20.9 23.0 38.3 35.3 | -1.0 -7.3 -3.8 -4.2 +0.5 | -2.4 -17.7 -19.7 -5.5 -1.4"
    "| -3.3 -20.9 -22.7 -7.1 -2.4",
    5: "35.9 36.8 38.2 39.2 | +1.9 +2.4 +1.8 +3.0 | 31.2 32.8 34.1 38.3 | +3.0 +3.3 +2.4 +1.6"
    "| 32.9 33.9 35.8 35.3 | +2.5 +2.8 +1.3 +2.8",
    6: "42.2 | -0.2 | +0.9 | +1.1 | -0.3",
}
LABELS = {
    3: {"network": ["ResNet-101"] * 6 + ["ResNet-152"] * 2},
    4: {"training with": ["PGD-30", "PGD-20", "PGD-10", "PGD-5"]},
    6: {"training batch size": [4096, 512, 1024, 2048, 8192]},
}
MEASURED = {
    4: [ADV, BN, ALP, f"MBN_adv, {BN}", f"MBN_adv, {ALP}"],
    5: ["PGD-5", "PGD-10", "PGD-20", "PGD-30"],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_run, result, make_report):
    runs = {}
    for row in ROWS:
        domain = "adv" if "MBN" in row["label"] else None
        for name, steps in zip(NUMBERS, (0, 10, 20, 100, 500, 2000), strict=True):
            if row[name]:  # two rows stand in Tables 3 and 7
                numbers = runs.setdefault(row["flagfile"], {})
                numbers[steps] = result(steps, float(row[name]), domain=domain)
    for name, percent in (("mbn", 79.3), ("mbn-alp", 78.4)):
        runs[f"table7/resnet152-pgd30-{name}"]["clean"] = result(0, percent, domain="clean")
    root = tmp_path_factory.mktemp("paper")
    for number, (flagfile, results) in enumerate(runs.items()):
        # A run is known by its settings and not by its name.
        flags = [f"--flagfile=flags/{flagfile}.flags"]
        write_run(root / f"run{number}", flags, list(results.values()))
    return make_report(root)


def test_every_number_and_every_change_is_the_papers(report, read):
    assert "52 of the paper's 52 rows filled" in report.summary
    assert len(report.runs) == 52 and not report.others and not report.problems
    files = report.files()
    assert [name for name in files if "table" in name] == [f"table{n}.csv" for n in range(1, 8)]
    for number, printed in PAPER.items():
        table = read(files[f"table{number}.csv"])
        assert table["ours"].equals(table["paper"]) and (table["difference"] == 0).all()
        # Exactly those numbers are changes that the paper prints as changes.
        expected = printed.replace("|", "").split()
        changes = [text[0] in "+-" for text in expected]
        assert table["change"].notna().tolist() == changes
        assert table["change"].equals(table["paper_change"])
        shown = table["change"].fillna(table["ours"])
        assert shown.tolist() == [float(text) for text in expected]
        for head, labels in LABELS.get(number, {}).items():
            assert table[head].tolist() == np.repeat(labels, len(table) // len(labels)).tolist()
        if number in MEASURED:
            assert table["measured"].unique().tolist() == MEASURED[number]

    table = read(files["table7.csv"])
    assert len(table) == (45 + 1 + 2) * 6  # Table 1's row, and the clean branches
    assert table["measured"].unique().tolist() == list(NUMBERS.values())
    rows = [row for row in ROWS if row["table"] == "7"]
    for row, (_, cells) in zip(rows, table.groupby(table.index // 6), strict=False):
        settings, first = train(row["flagfile"]), cells.iloc[0]
        assert first["training strategy"] == row["label"]
        assert first["network"] == f"ResNet-{settings.depth}"
        assert first["batch"] == settings.batch_size
        assert first["training with"] == f"PGD-{settings.num_steps}"
        assert cells["ours"].tolist() == [float(row[name]) for name in NUMBERS]
        assert (cells["difference"] == 0).all()

    results = read(files["results.csv"])
    assert len(results) == 45 * 6 + 6 * 2 + 1 + 2
    assert (results["comparable"] == "yes").all() and (results["difference"] == 0).all()


def test_curves_are_the_papers(report):
    charts = {chart.name: chart.points for chart in figures.charts(report.paper)}
    assert list(charts) == ["Figure 1", "Figure 2", "Figure 3", "Figure 7"]

    def curves(name):
        return {
            label: points.set_index("x")["paper"].to_dict()
            for label, points in charts[name].groupby("label")
        }

    [curve] = curves("Figure 1").values()
    assert curve == {0: 39.2, 20: 32.1, 40: 29.1, 60: 15.3, 80: 20.3, 100: 20.9}
    steps = curves("Figure 2")
    assert set(steps) == {ADV, BN, ALP}
    assert steps[BN] == {10: 56.2, 20: 53.0, 100: 35.6, 500: 26.6, 2000: 20.9}
    assert set(curves("Figure 3")) == {ADV, f"MBN_adv, {BN}", f"MBN_adv, {ALP}", f"GN, {BN}"}
    assert curves("Figure 7") == {
        f"{ADV}*": {152: 42.2, 200: 43.8, 338: 44.6, 518: 46.2, 638: 46.7}
    }
    assert all(np.allclose(points["ours"], points["paper"]) for points in charts.values())
