"""Run directories with known numbers, as `tfadv.train` and `tfadv.evaluate` leave them."""

import io
import json
import pathlib

import pandas as pd
import pytest

from tfadv.evaluation import Result
from tfadv.programs import flags as program_flags
from tfadv.programs import report as report_program
from tfadv.settings import TRAIN

IMAGENET = dict(dataset="imagenet2012", image_shape=[224, 224, 3], whole_validation_set=True)


@pytest.fixture(scope="session")
def result():
    """Function (num_steps, percent, ...) -> a `Result` of the paper's attack, with changes."""

    def make(num_steps, percent, total=50000, domain=None, **changes):
        correct = round(percent * total / 100)
        if not num_steps:
            return Result(domain=domain, num_steps=0, correct=correct, total=total)
        attack = dict(epsilon=16.0, step_size_rule="pipeline", targeted=True, restarts=1, hits=0)
        attack |= dict(loss="cross_entropy", start_from_clean=0.0) | changes
        attack.setdefault("step_size", max(1.0, attack["epsilon"] / num_steps))
        return Result(domain=domain, num_steps=num_steps, correct=correct, total=total, **attack)

    return make


@pytest.fixture(scope="session")
def write_run():
    """Function (directory, flags, results, ...) -> the directory, with a results file in it."""

    def write(directory, flags, results, file="evaluation.json", model="model.keras", **details):
        directory.mkdir(parents=True, exist_ok=True)
        settings = program_flags.parse(TRAIN, flags)
        (directory / "flags.txt").write_text(program_flags.flagfile(TRAIN, settings))
        if results:
            document = {"model": f"{directory}/{model}", **IMAGENET, **details}
            document["results"] = [each.as_dict() for each in results]
            (directory / file).write_text(json.dumps(document))
        return directory

    return write


@pytest.fixture
def make_run(tmp_path, monkeypatch, write_run):
    """Function (name, flags, results, ...): writes the run runs/name below an empty directory."""
    monkeypatch.chdir(tmp_path)

    def make(name, *arguments, **options):
        return str(write_run(pathlib.Path("runs") / name, *arguments, **options))

    return make


@pytest.fixture(scope="session")
def make_report(tmp_path_factory):
    """Function of directories -> the `Report` of their runs."""

    def make(*directories):
        output = tmp_path_factory.mktemp("report")
        arguments = [f"--output={output}", *map(str, directories)]
        return report_program.prepare(report_program.parse(arguments)).report

    return make


@pytest.fixture(scope="session")
def read():
    """Function of the text of a CSV file -> a DataFrame."""
    return lambda text: pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
