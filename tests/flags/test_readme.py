"""The tables of flags/README.md have the paper's numbers, and its links lead to files."""

import re

import pytest

from tests.flags.cases import EVALUATE, FLAGS, NUMBERS, ROWS, TRAIN, name, pgd2000, row_of

TEXT = (FLAGS / "README.md").read_text(encoding="utf-8")


def cells(table):
    """The cells of the rows under a heading, without the head of each table."""
    part = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    [part] = [each for each in part if each.startswith(table + "\n")]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for row, below in zip(rows, [*rows[1:], [""]], strict=True)
        if not {row[0], below[0]} & {"---"}
    ]


def linked(cell):
    text, target = re.fullmatch(r"\[(.*)\]\((.*)\.flags\)", cell).groups()
    return text.replace("\\*", "*"), target


def test_links_lead_to_files_and_every_file_is_linked():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert all((FLAGS / target).is_file() for target in targets), targets
    assert {name(path) + ".flags" for path in [*TRAIN, *EVALUATE]} <= set(targets)
    anchors = {re.sub(r"\s+", "-", h.lower()) for h in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_table_7_of_the_readme():
    numbers = {}
    for row in cells("Table 7"):
        text, target = linked(row[0])
        assert text.endswith(row_of("7", target)["label"])
        numbers[target] = row[1:]
    assert numbers == {
        row["flagfile"]: [row[key] for key in NUMBERS] for row in ROWS if row["table"] == "7"
    }


def test_table_3_of_the_readme():
    rows = [row for row in ROWS if row["table"] == "3"]
    for number, (row, (link, *rest)) in enumerate(zip(rows, cells("Table 3"), strict=True), 1):
        assert linked(link) == (f"row {number}", f"table3/row{number}")
        assert rest == [row["label"].split(": ", 1)[1], row["pgd10"], row["pgd2000"]]


# The differences that the paper prints in its Tables 4 and 5.
TABLE_4 = {
    "20": "-1.0 -7.3 -3.8 -4.2 +0.5",
    "10": "-2.4 -17.7 -19.7 -5.5 -1.4",
    "5": "-3.3 -20.9 -22.7 -7.1 -2.4",
}
TABLE_5 = ["+1.9 +2.4 +1.8 +3.0", "+3.0 +3.3 +2.4 +1.6", "+2.5 +2.8 +1.3 +2.8"]


def test_table_4_of_the_readme():
    rows = {row[0]: [linked(cell) for cell in row[1:]] for row in cells("Table 4")}
    assert [float(text) for text, _ in rows["30"]] == [pgd2000(target) for _, target in rows["30"]]
    for number, expected in TABLE_4.items():
        assert [text for text, _ in rows[number]] == expected.split()
        for (text, target), (_, strongest) in zip(rows[number], rows["30"], strict=True):
            assert f"pgd{number}-" in target
            assert float(text) == pytest.approx(pgd2000(target) - pgd2000(strongest))


def test_table_5_of_the_readme():
    rows = [[linked(cell) for cell in row[1:]] for row in cells("Table 5")]
    for plain, starred, expected in zip(rows[::2], rows[1::2], TABLE_5, strict=True):
        assert [text for text, _ in starred] == expected.split()
        for (text, target), (difference, with_running) in zip(plain, starred, strict=True):
            assert with_running == f"{target}-running" and float(text) == pgd2000(target)
            assert float(difference) == pytest.approx(pgd2000(with_running) - pgd2000(target))


@pytest.mark.parametrize("table", ["Table 2", "Table 6"])
def test_tables_2_and_6_of_the_readme(table):
    reference = None
    for row in cells(table):
        _, target = linked(row[0])
        included = (FLAGS / f"{target}.flags").read_text().splitlines()[1]
        value = pgd2000(re.search(r"(table7/.*)\.flags", included)[1])
        if row[1][0] in "+-":
            assert float(row[1]) == pytest.approx(value - reference)
        else:
            reference = value
            assert float(row[1]) == value
    # As the paper prints them.
    expected = {"Table 2": "39.2 +3.0 38.3 +1.6 35.3 +2.8", "Table 6": "42.2 -0.2 +0.9 +1.1 -0.3"}
    assert [row[1] for row in cells(table)] == expected[table].split()


def test_table_1_of_the_readme():
    assert [row[1:] for row in cells("Table 1")] == [
        [row_of("1", "table1/clean_only")["clean"], ""],
        ["", "39.2"],
        ["78.9 + 0.4 (MBN_clean)", "39.2 - 0.9 (MBN_adv)"],
        ["78.9 - 0.5 (MBN_clean)", "39.2 - 3.9 (MBN_adv)"],
    ]
    for target, change in (("clean0", 0), ("mbn", -0.9), ("mbn-alp", -3.9)):
        assert pgd2000(f"table7/resnet152-pgd30-{target}") == pytest.approx(39.2 + change)
