"""The paper's experiments as data: what every file resolves to, and every number that is quoted."""

import csv
import pathlib
import re

import pytest

from tfadv.config import flag_table, flagfiles, parsing

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ROOT / "flags"
TRAIN = sorted(p for p in FLAGS.rglob("*.flags") if p.parent.name not in ("eval", "parts"))
EVALUATE = sorted((FLAGS / "eval").glob("*.flags"))
PUBLISHED = ROOT.parent / "shared" / "paper" / "table7.tsv"
NUMBERS = {
    "clean": "clean", "pgd10": "PGD-10", "pgd20": "PGD-20", "pgd100": "PGD-100",
    "pgd500": "PGD-500", "pgd2000": "PGD-2000",
}  # fmt: skip


def name(path):
    return str(path.relative_to(FLAGS).with_suffix(""))


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def train(path):
    return parsing.parse("train", "", flag_table.TRAIN, [f"--flagfile={path}"])


ROWS = read(ROOT / "tfadv" / "reporting" / "paper.tsv")
RUNS = list(dict.fromkeys(row["flagfile"] for row in ROWS))


def row_of(table, flagfile):
    return next(row for row in ROWS if (row["table"], row["flagfile"]) == (table, flagfile))


def pgd2000(flagfile):
    return float(row_of("7", flagfile)["pgd2000"])


def test_there_are_52_runs_in_three_tables():
    assert len(RUNS) == 52
    count = {table: sum(row["table"] == table for row in ROWS) for table in "731"}
    assert count == {"7": 45, "3": 8, "1": 1}
    assert {name(path) for path in (FLAGS / "table7").iterdir()} == {
        row["flagfile"] for row in ROWS if row["table"] == "7"
    }


def test_the_52_runs_are_distinct_in_what_they_do_and_where_they_are_kept():
    settings = {run: vars(train(FLAGS / f"{run}.flags")) for run in RUNS}
    assert len({each["run_dir"] for each in settings.values()}) == 52
    for each in settings.values():
        each.pop("run_dir")
    assert len({str(sorted(each.items(), key=str)) for each in settings.values()}) == 52


# By the words of the row alone: what a reader of the table would write on a command line.
@pytest.mark.parametrize("row", [r for r in ROWS if r["table"] == "7"], ids=lambda r: r["flagfile"])
def test_a_row_of_table_7_is_what_its_words_say(row):
    settings = train(FLAGS / f"{row['flagfile']}.flags")
    label = row["label"]
    expected = vars(train(FLAGS / "base.flags")) | dict(
        norm="mbn" if "MBN" in label else "gn" if "GN" in label else "bn",
        clean_ratio=int(re.search(r"(\d+)% clean", label)[1]) / 100,
        pairing_weight=0.5 if "ALP" in label else 0.0,
        running_statistics=10 if label.endswith("*") else 0,
        run_dir=f"runs/{row['flagfile']}",
    )
    network, batch, steps = published_setting(row)
    expected |= dict(
        depth=int(network.removeprefix("ResNet-")),
        batch_size=batch,
        num_steps=steps,
        step_size={5: 4.0, 10: 2.0}.get(steps, 1.0),  # Appendix B.1's footnote
    )
    assert vars(settings) == expected


def published_setting(row):
    first = (FLAGS / f"{row['flagfile']}.flags").read_text().splitlines()[0]
    found = re.fullmatch(r"# Table 7: (ResNet-\d+), batch (\d+), PGD-(\d+), (.*)\.", first)
    assert found[4] == row["label"]
    return found[1], int(found[2]), int(found[3])


def test_numbers_are_the_published_ones():
    if not PUBLISHED.is_file():
        pytest.skip("the paper's table is not beside this checkout")
    published = {}
    for row in read(PUBLISHED):
        key = row["network"], int(row["batch"]), int(row["train_pgd"]), row["strategy"]
        published[key] = [row[name] for name in NUMBERS]
    ours = {
        (*published_setting(row), row["label"]): [row[name] for name in NUMBERS]
        for row in ROWS
        if row["table"] == "7"
    }
    assert ours == published and len(ours) == 45


def test_files_quote_their_rows_numbers():
    quoted = 0
    for row in ROWS:
        if row["table"] == "1":
            continue
        paths = [FLAGS / f"{row['flagfile']}.flags"]
        if row["table"] == "3":
            paths = [FLAGS / "table3" / f"row{row['label'][4]}.flags"]
        numbers = ", ".join(f"{text} {row[key]}" for key, text in NUMBERS.items() if row[key])
        for path in paths:
            assert path.read_text().splitlines()[1] == f"# Paper: {numbers}."
            quoted += 1
    assert quoted == 53
    for path in sorted((FLAGS / "table2").iterdir()) + sorted((FLAGS / "table6").iterdir()):
        lines = path.read_text().splitlines()
        included = re.fullmatch(r"--flagfile=\.\./(table7/.*)\.flags", lines[2])[1]
        assert lines[1] == f"# Paper: PGD-2000 {pgd2000(included)}."
        assert (
            lines[0]
            .split(": ")[1]
            .removesuffix("; a row of Table 7.")
            .endswith(row_of("7", included)["label"])
        )


def test_each_row_of_table_3_is_one_setting_away_from_the_row_before():
    changes = []
    before = vars(train(FLAGS / "table3" / "row1.flags"))
    for number in range(2, 9):
        after = vars(train(FLAGS / "table3" / f"row{number}.flags"))
        changes.append({key for key in after if after[key] != before[key]} - {"run_dir"})
        before = after
    assert changes == [
        {"decay", "epochs"},
        {"learning_rate"},
        {"optimizer"},
        {"start_from_clean"},
        {"batch_size"},
        {"depth"},
        {"num_steps", "step_size"},
    ]
    first = train(FLAGS / "table3" / "row1.flags")
    assert (first.optimizer, first.learning_rate, first.decay) == ("rmsprop", 0.045, "exponential")
    assert (first.decay_rate, first.decay_every, first.epochs) == (0.94, 2, 220)
    assert (first.start_from_clean, first.depth, first.batch_size) == (0.0, 101, 48 * 32)


@pytest.mark.parametrize("path", TRAIN, ids=name)
def test_files_state_only_their_difference(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    if path.name in ("base.flags", "quickstart.flags"):
        return  # the one states the defaults, the other is read by itself
    flags = [line for line in lines if not line.startswith("#")]
    includes = [line for line in flags if line.startswith("--flagfile=")]
    assert flags[: len(includes)] == includes  # else they would win over the file's own
    seen = dict(flag.split("=", 1) for flag in flagfiles.expand(_beside(path, includes)))
    for flag in flags[len(includes) :]:
        key, value = flag.split("=", 1)
        assert seen.get(key) != value, flag
    # Every include changes something.
    for include in includes[1:]:
        others = [each for each in includes if each != include]
        assert flagfiles.expand(_beside(path, others)) != flagfiles.expand(_beside(path, includes))


def _beside(path, includes):
    return [f"--flagfile={path.parent / line.split('=', 1)[1]}" for line in includes]


@pytest.mark.parametrize("path", EVALUATE, ids=name)
def test_evaluations_parse_and_attack_as_the_paper_does(path, monkeypatch):
    monkeypatch.chdir("/")
    settings = parsing.parse("evaluate", "", flag_table.EVALUATE, [f"--flagfile={path}"])
    if path.stem == "quickstart":
        return
    assert (settings.step_size, settings.start_from_clean, settings.restarts) == (1.0, 0.0, 1)
    expected = {"clean": ()}.get(path.stem, (10, 20, 100, 500, 2000))
    if path.stem.startswith("pgd"):
        expected = (int(path.stem[3:]),)
        assert settings.epsilon == 16
    assert settings.num_steps == expected


# The README's tables.

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
    found = {}
    for row in cells("Table 7"):
        text, target = linked(row[0])
        assert text.endswith(row_of("7", target)["label"])
        found[target] = row[1:]
    assert found == {
        row["flagfile"]: [row[key] for key in NUMBERS] for row in ROWS if row["table"] == "7"
    }


def test_table_3_of_the_readme():
    rows = [row for row in ROWS if row["table"] == "3"]
    for number, (row, found) in enumerate(zip(rows, cells("Table 3"), strict=True), 1):
        assert linked(found[0]) == (f"row {number}", f"table3/row{number}")
        expected = [row["label"].split(": ", 1)[1], row["pgd10"], row["pgd2000"]]
        assert found[1:] == expected


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
        included = (FLAGS / f"{target}.flags").read_text().splitlines()[2]
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
