"""`python -m tfadv.report`, as a user runs it."""

import subprocess
import sys

import pytest

from tfadv.programs import flags
from tfadv.settings import TRAIN


def report(*arguments, options=(), cwd=None):
    return subprocess.run(
        [sys.executable, *options, "-m", "tfadv.report", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.fixture
def runs(tmp_path):
    """Two runs in the layout of `flags/`, not yet evaluated: `runs/table7/a` and `runs/b`."""
    settings = flags.parse(TRAIN, ["--clean_ratio=0"])
    for name in ("table7/a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = flags.flagfile(TRAIN, settings)
        (tmp_path / "runs" / name / "flags.txt").write_text(text)
    return tmp_path


RESULTS = """{"model": "runs/table7/a/model.keras", "dataset": "imagenet2012",
"image_shape": [224, 224, 3], "whole_validation_set": true, "results": [
{"domain": null, "num_steps": 2000, "correct": 19500, "total": 50000, "hits": 9, "epsilon": 16.0,
"step_size": 1.0, "step_size_rule": "pipeline", "targeted": true, "loss": "cross_entropy",
"start_from_clean": 0.0, "restarts": 1, "seed": 0, "name": "PGD-2000"}]}"""


def test_a_report_without_tensorflow(runs):
    (runs / "runs/table7/a/evaluation.json").write_text(RESULTS)
    process = report("runs/table7", "runs/b", options=["-X", "importtime"], cwd=runs)
    assert process.returncode == 0, process.stderr
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "matplotlib" in imported and not imported & {"tensorflow", "keras", "horovod"}
    assert "tfadv.report: left out: runs/b: not evaluated yet (python -m tfadv.evaluate)" in (
        process.stderr.splitlines()
    )
    assert process.stdout.splitlines() == [
        "runs:         1",
        "comparable:   1 of the paper's 52 rows filled",
        "written to:   report/report.md",
    ]
    names = sorted(path.name for path in (runs / "report").iterdir())
    assert names == [
        *("figure1.png", "figure1.svg", "report.md", "results.csv"),
        *(f"table{number}.csv" for number in (1, 2, 4, 5, 7)),
    ]
    text = (runs / "report/report.md").read_text()
    assert "| 100% adv + 0% clean | 39.0 [38.6, 39.4] | 39.2 | -0.2 [-0.6, +0.2] |" in text
    assert "![Figure 1](figure1.png)" in text


def test_a_mistake_is_one_line(runs):
    process = report("nowhere", "runs/b", cwd=runs)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        "tfadv.report: directories must hold runs of tfadv.train that were evaluated; nowhere: no "
        "run of tfadv.train (no flags.txt); runs/b: not evaluated yet (python -m tfadv.evaluate)\n"
    )
    assert not (runs / "report").exists()


def test_an_unreadable_file_shows_in_the_status(runs):
    (runs / "runs/table7/a/evaluation.json").write_text(RESULTS)
    (runs / "runs/b/evaluation.json").write_text(RESULTS[:99])
    process = report("runs", "--output=o", cwd=runs)
    assert process.returncode == 1 and (runs / "o/report.md").exists()
    assert "runs/b/evaluation.json: cannot be read" in process.stderr
