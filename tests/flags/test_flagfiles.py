"""Flagfiles of the paper's experiments: their settings, and the numbers that they quote."""

import re

import pytest

from tests.flags import cases
from tests.flags.cases import FLAGS, NUMBERS, ROWS, RUNS, name, row_of, train
from tfadv.programs import flagfiles, flags
from tfadv.settings import EVALUATE

PUBLISHED = cases.ROOT.parent / "shared" / "paper" / "table7.tsv"


def test_there_are_52_runs_in_three_tables():
    assert len(RUNS) == 52
    count = {table: sum(row["table"] == table for row in ROWS) for table in "731"}
    assert count == {"7": 45, "3": 8, "1": 1}
    assert {name(path) for path in (FLAGS / "table7").iterdir()} == {
        row["flagfile"] for row in ROWS if row["table"] == "7"
    }


def test_the_52_runs_differ_in_settings_and_directory():
    settings = {run: vars(train(run)) for run in RUNS}
    assert len({each["run_dir"] for each in settings.values()}) == 52
    for each in settings.values():
        each.pop("run_dir")
    assert len({str(sorted(each.items(), key=str)) for each in settings.values()}) == 52


# The expected settings come from the row's words alone, as a reader of the table understands them.
@pytest.mark.parametrize("row", [r for r in ROWS if r["table"] == "7"], ids=lambda r: r["flagfile"])
def test_a_row_of_table_7_is_what_its_words_say(row):
    settings = train(row["flagfile"])
    label = row["label"]
    expected = vars(train("base")) | dict(
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
    words, _ = first_line(row["flagfile"])
    parts = re.fullmatch(r"Table 7: (ResNet-\d+), batch (\d+), PGD-(\d+), (.*)", words)
    assert parts[4] == row["label"]
    return parts[1], int(parts[2]), int(parts[3])


def first_line(flagfile):
    """The row in words and the paper's numbers, from the first line of a file."""
    first = cases.file(flagfile).read_text().splitlines()[0]
    return re.fullmatch(r"# (.*)\. Paper: (.*)\.", first).groups()


def test_numbers_are_the_published_ones():
    if not PUBLISHED.is_file():
        pytest.skip("the paper's table is not beside this checkout")
    published = {}
    for row in cases.read(PUBLISHED):
        key = row["network"], int(row["batch"]), int(row["train_pgd"]), row["strategy"]
        published[key] = [row[name] for name in NUMBERS]
    ours = {
        (*published_setting(row), row["label"]): [row[name] for name in NUMBERS]
        for row in ROWS
        if row["table"] == "7"
    }
    assert ours == published and len(ours) == 45


def quoted(row):
    return ", ".join(f"{text} {row[key]}" for key, text in NUMBERS.items() if row[key])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"table{row['table']}-{row['flagfile']}")
def test_a_first_line_quotes_its_rows_numbers(row):
    flagfile = row["flagfile"]
    if row["table"] == "3":
        flagfile = f"table3/row{row['label'][4]}"
        # Rows 7 and 8 are Table 7's, whose numbers they repeat.
        assert first_line(flagfile)[0].startswith(f"Table 3, {row['label']}")
    words, numbers = first_line(flagfile)
    assert words.startswith(f"Table {row['table']}")
    assert numbers == quoted(row)
    if flagfile in ("table3/row7", "table3/row8"):
        above = row_of("7", row["flagfile"])
        assert {key: above[key] for key in ("pgd10", "pgd2000")}.items() <= row.items()


# Table 1's MBN_clean: +0.4 and -0.5 to its 78.9.
CLEAN_BRANCH = {"table1/mbn": 0.4, "table1/mbn_alp": -0.5}


@pytest.mark.parametrize(
    "path",
    [path for table in "126" for path in sorted((FLAGS / f"table{table}").iterdir())],
    ids=name,
)
def test_files_that_include_a_row_of_table_7_are_that_row(path):
    if name(path) == "table1/clean_only":
        return  # it includes no row of Table 7
    _, include = path.read_text().splitlines()
    row = row_of("7", re.fullmatch(r"--flagfile=\.\./(table7/.*)\.flags", include)[1])
    words, numbers = first_line(name(path))
    words = words.removesuffix("; a row of Table 7").removesuffix(", through either branch")
    assert words.endswith(row["label"])
    expected = f"PGD-2000 {row['pgd2000']}"
    if name(path) in CLEAN_BRANCH:
        clean = float(row_of("1", "table1/clean_only")["clean"]) + CLEAN_BRANCH[name(path)]
        expected = f"clean {clean:.1f} through the clean branch, {expected} through the adv branch"
    assert numbers == expected


def test_fine_tuning_starts_from_the_runs_that_section_44_names():
    on_clean, on_adversarial = train("finetune/on_clean"), train("finetune/on_adversarial")
    before = row_of("7", "table7/resnet152-pgd30-clean0")
    assert first_line("finetune/on_clean")[1] == f"clean 73, from {before['clean']}"
    assert first_line("finetune/on_adversarial")[1] == "PGD-2000 0"
    assert on_clean.init_from == train(before["flagfile"]).run_dir
    assert on_adversarial.init_from == train("table1/clean_only").run_dir
    assert (on_clean.adversarial, on_clean.trainable) == (False, "norm")
    assert (on_adversarial.adversarial, on_adversarial.clean_ratio) == (True, 0.0)
    assert on_adversarial.trainable == "norm"


def test_files_are_the_same_from_any_directory(monkeypatch, tmp_path):
    here = {path: flagfiles.expand([f"--flagfile={path}"]) for path in cases.TRAIN}
    monkeypatch.chdir(tmp_path)
    for path, expected in here.items():
        shipped = f"--flagfile={path.relative_to(cases.ROOT)}"  # flags/..., which is not here
        assert flagfiles.expand([shipped]) == expected


def test_each_row_of_table_3_is_one_setting_away_from_the_row_before():
    changes = []
    before = vars(train("table3/row1"))
    for number in range(2, 9):
        after = vars(train(f"table3/row{number}"))
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
    first = train("table3/row1")
    assert (first.optimizer, first.learning_rate, first.decay) == ("rmsprop", 0.045, "exponential")
    assert (first.decay_rate, first.decay_every, first.epochs) == (0.94, 2, 220)
    assert (first.start_from_clean, first.depth, first.batch_size) == (0.0, 101, 48 * 32)


@pytest.mark.parametrize("path", cases.TRAIN, ids=name)
def test_files_state_only_their_difference(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    if path.name in ("base.flags", "quickstart.flags"):
        return  # these state every value, as defaults and as an example
    given = [line for line in lines if not line.startswith("#")]
    includes = [line for line in given if line.startswith("--flagfile=")]
    assert given[: len(includes)] == includes  # later ones would override the file's own flags
    seen = dict(flag.split("=", 1) for flag in flagfiles.expand(_beside(path, includes)))
    for flag in given[len(includes) :]:
        key, value = flag.split("=", 1)
        assert seen.get(key) != value, flag
    # Every include changes something.
    for include in includes[1:]:
        others = [each for each in includes if each != include]
        assert flagfiles.expand(_beside(path, others)) != flagfiles.expand(_beside(path, includes))


def _beside(path, includes):
    return [f"--flagfile={path.parent / line.split('=', 1)[1]}" for line in includes]


@pytest.mark.parametrize("path", cases.EVALUATE, ids=name)
def test_evaluations_parse_and_attack_as_the_paper_does(path, monkeypatch):
    monkeypatch.chdir("/")
    settings = flags.parse(EVALUATE, [f"--flagfile={path}"])
    if path.stem in ("quickstart", "study", "robustbench_imagenet"):
        return
    assert (settings.step_size, settings.start_from_clean, settings.restarts) == (1.0, 0.0, 1)
    expected = {"clean": ()}.get(path.stem, (10, 20, 100, 500, 2000))
    if path.stem.startswith("pgd"):
        expected = (int(path.stem[3:]),)
        assert settings.epsilon == 16
    assert settings.num_steps == expected
