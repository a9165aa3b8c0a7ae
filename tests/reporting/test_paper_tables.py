"""Runs that reach the paper's numbers exactly: every table must be the paper's own."""

import csv
import io

import pytest

from tfadv.programs import report as report_program
from tfadv.reporting import curves, tables

# As the paper prints them (Tables 1 to 6): numbers, and what it states as changes.
BN, ALP = "100% adv + 100% clean", "100% adv + 100% clean, ALP"
ADV = "100% adv + 0% clean"
PAPER = {
    "Table 1": [[78.9], ["+0.4"], ["-0.5"], [39.2], ["-0.9"], ["-3.9"]],
    "Table 2": [[39.2], ["+3.0"], [38.3], ["+1.6"], [35.3], ["+2.8"]],
    "Table 3": [
        [38.1, 2.1], [47.0, 2.7], [50.2, 0.8], [48.2, 0.7],
        [47.0, 2.1], [47.5, 2.9], [47.3, 3.3], [48.8, 23.0],
    ],
    "Table 4": [
        [39.2, 20.9, 23.0, 38.3, 35.3],
        ["-1.0", "-7.3", "-3.8", "-4.2", "+0.5"],
        ["-2.4", "-17.7", "-19.7", "-5.5", "-1.4"],
        ["-3.3", "-20.9", "-22.7", "-7.1", "-2.4"],
    ],
    "Table 5": [
        [35.9, 36.8, 38.2, 39.2],
        ["+1.9", "+2.4", "+1.8", "+3.0"],
        [31.2, 32.8, 34.1, 38.3],
        ["+3.0", "+3.3", "+2.4", "+1.6"],
        [32.9, 33.9, 35.8, 35.3],
        ["+2.5", "+2.8", "+1.3", "+2.8"],
    ],
    "Table 6": [[42.2], ["-0.2"], ["+0.9"], ["+1.1"], ["-0.3"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_run, result, make_report):
    root = tmp_path_factory.mktemp("paper")
    for number, row in enumerate(report_program.paper_rows()):
        domain = "adv" if row.settings["norm"] == "mbn" else None
        results = [result(n, value, domain=domain) for n, value in row.numbers.items()]
        if row.flagfile.endswith(("pgd30-mbn", "pgd30-mbn-alp")):
            results.append(result(0, 78.4 if "alp" in row.flagfile else 79.3, domain="clean"))
        # Its name says nothing: a run is known by its settings.
        write_run(root / f"run{number}", [f"--flagfile=flags/{row.flagfile}.flags"], results)
    return make_report(root)


@pytest.fixture(scope="module")
def found(report):
    return {table.name: table for table in tables.tables(report.papers)}


def test_all_rows_are_filled(report, found):
    assert len(report.runs) == 52 and not report.others and not report.problems
    assert "52 of the paper's 52 rows filled" in report.summary
    assert list(found) == [f"Table {number}" for number in range(1, 8)]


@pytest.mark.parametrize("name", PAPER)
def test_every_number_and_every_change_is_the_papers(found, name):
    rows = [cells for _, cells in found[name].rows]
    assert len(rows) == len(PAPER[name])
    for cells, expected in zip(rows, PAPER[name], strict=True):
        assert len(cells) == len(expected)
        for cell, value in zip(cells, expected, strict=True):
            number, reference = cell.number, cell.reference
            assert number.ours == pytest.approx(number.paper)
            assert number.difference == pytest.approx(0)
            # What the paper states as a change is one here too, and nothing else is.
            assert isinstance(value, str) == (reference is not None)
            if reference:
                value = float(value)
                assert number.ours - reference.ours == pytest.approx(value)
                assert number.paper - reference.paper == pytest.approx(value)
            else:
                assert number.ours == pytest.approx(value)


def test_table_7_is_the_papers(found):
    table = found["Table 7"]
    assert table.columns == ("clean", "PGD-10", "PGD-20", "PGD-100", "PGD-500", "PGD-2000")
    assert len(table.rows) == 45 + 1 + 2  # Table 1's, and the clean branches
    rows = report_program.paper_rows()[:45]
    for (labels, cells), row in zip(table.rows, rows, strict=False):
        assert labels[3] == row.label
        assert labels[0] == f"ResNet-{row.settings['depth']}"
        assert labels[1] == str(row.settings["batch_size"])
        assert labels[2] == f"PGD-{row.settings['num_steps']}"
        assert [cell.number.ours for cell in cells] == pytest.approx(list(row.numbers.values()))
        assert all(cell.number.difference == pytest.approx(0) for cell in cells)


def test_labels_of_rows_and_columns(found):
    assert found["Table 4"].columns == (ADV, BN, ALP, f"MBN_adv, {BN}", f"MBN_adv, {ALP}")
    assert [labels for labels, _ in found["Table 4"].rows] == [
        ("PGD-30",), ("PGD-20",), ("PGD-10",), ("PGD-5",)
    ]  # fmt: skip
    assert found["Table 5"].columns == ("PGD-5", "PGD-10", "PGD-20", "PGD-30")
    assert [labels[0] for labels, _ in found["Table 6"].rows] == "4096 512 1024 2048 8192".split()
    assert [labels[1] for labels, _ in found["Table 3"].rows] == ["ResNet-101"] * 6 + [
        "ResNet-152"
    ] * 2


def test_results_in_long_form(report):
    rows = list(csv.DictReader(io.StringIO(report.files()["results.csv"])))
    assert len(rows) == 45 * 6 + 6 * 2 + 1 + 2
    assert {row["comparable"] for row in rows} == {"yes"}
    assert {row["difference"] for row in rows} <= {"0.000", "-0.000"}


def test_curves_are_the_papers(report):
    charts = {chart.name: chart for chart in curves.charts(report.papers)}
    assert list(charts) == ["Figure 1", "Figure 2", "Figure 3", "Figure 7"]
    [curve] = charts["Figure 1"].curves
    assert curve.papers == [(0, 39.2), (20, 32.1), (40, 29.1), (60, 15.3), (80, 20.3), (100, 20.9)]
    steps = {curve.label: curve.papers for curve in charts["Figure 2"].curves}
    assert set(steps) == {ADV, BN, ALP}
    assert steps[BN] == [(10, 56.2), (20, 53.0), (100, 35.6), (500, 26.6), (2000, 20.9)]
    assert {curve.label for curve in charts["Figure 3"].curves} == {
        ADV, f"MBN_adv, {BN}", f"MBN_adv, {ALP}", f"GN, {BN}"
    }  # fmt: skip
    depth = {curve.label: curve.papers for curve in charts["Figure 7"].curves}
    assert depth[f"{ADV}*"] == [(152, 42.2), (200, 43.8), (338, 44.6), (518, 46.2), (638, 46.7)]
    for chart in charts.values():
        for curve in chart.curves:
            assert [n.ours for _, n in curve.ours] == pytest.approx([y for _, y in curve.papers])
