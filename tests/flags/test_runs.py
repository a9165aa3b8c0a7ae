"""Every run of `flags/` in small: its own strategy, on a few synthetic images.

`make test` runs two of different kinds, `make test-runs` all.
"""

import json

import keras
import numpy as np
import pytest

import tfadv  # noqa: F401 - registers what saved models are made of
from tests.flags import cases
from tests.flags.cases import FLAGS
from tfadv.programs import evaluate as evaluate_program
from tfadv.programs import train as train_program
from tfadv.programs.run_directory import RunDirectory

SIZES = [
    "--dataset=synthetic", "--image_size=32", "--blocks=1,1,1,1", "--depth=14", "--width=4",
    "--epochs=2", "--steps_per_epoch=2", "--batch_size=4", "--images_per_worker=4",
    "--eval_num_steps=", "--strong_eval_num_steps=", "--image_pairs=0",
]  # fmt: skip
QUICK = ("table7/resnet152-pgd5-mbn-alp-running", "table3/row1")
# Two updates are too few for moving statistics, and these tests are not about them.
pytestmark = pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")
ALL = [*cases.RUNS]
ALL += [f"beyond/{path.stem}" for path in sorted((FLAGS / "beyond").iterdir())]
ALL += [f"figure7/{path.stem}" for path in sorted((FLAGS / "figure7").iterdir())]


def train(name, directory, *flags):
    """Trains a flagfile's run for a few steps; returns the settings of the flagfile."""
    settings = cases.train(name)
    last = ["--running_statistics=1"] if settings.running_statistics else []
    arguments = [f"--flagfile={cases.file(name)}", *SIZES, *last, f"--run_dir={directory}"]
    train_program.prepare(*train_program.parse([*arguments, *flags])).run()
    return settings


def values(path):
    model = keras.saving.load_model(path, compile=False)
    return {variable.path.split("/", 1)[-1]: variable.numpy() for variable in model.variables}


def changed(before, after):
    return {path for path in after if np.any(after[path] != before[path])}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.runs) for n in ALL]
)
def test_trains_writes_checkpoints_and_is_evaluated(name, tmp_path, capsys):
    settings = train(name, tmp_path / "run")
    run = tmp_path / "run"
    # Only sizes are smaller: the strategy is that of the file.
    kept = RunDirectory(run).settings()
    sizes = {flag.split("=")[0].strip("-") for flag in SIZES} | {"run_dir", "running_statistics"}
    for key, value in vars(settings).items():
        assert key in sizes or getattr(kept, key) == value, key
    assert bool(kept.running_statistics) == bool(settings.running_statistics)

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 2), (2, 4)]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert ("adv_loss" in lines[0]) == settings.adversarial
    assert ("clean_loss" in lines[0]) == (settings.clean_ratio > 0)
    first, last = (values(run / "checkpoints" / f"epoch-000{n}.keras") for n in (1, 2))
    moved = changed(first, last)
    assert any(path.endswith("kernel") for path in moved)
    if settings.norm in ("bn", "mbn"):
        statistics = any("moving_" in path for path in moved)
        assert statistics == (not settings.running_statistics)

    flags = [f"--run_dir={run}", "--num_steps=2", "--limit=5", "--domain=both"]
    # The self-checks take longer than all the rest, and have their own tests.
    flags += ["--images_per_worker=4", "--sanity_checks=false"]
    evaluate_program.prepare(*evaluate_program.parse(flags)).run()
    results = json.loads((run / "evaluation.json").read_text())["results"]
    domains = ["adv", "clean"] if settings.norm == "mbn" else [None]
    assert [(r["domain"], r["num_steps"], r["total"]) for r in results] == [
        (domain, steps, 5) for domain in domains for steps in (0, 2)
    ]
    assert {r["epsilon"] for r in results if r["num_steps"]} == {settings.epsilon}


@pytest.mark.runs
@pytest.mark.parametrize(
    "name, start",
    [
        ("finetune/on_clean", "table7/resnet152-pgd30-clean0"),
        ("finetune/on_adversarial", "table1/clean_only"),
    ],
)
def test_fine_tuning_leaves_convolutions_as_they_were(name, start, tmp_path, capsys):
    began = train(start, tmp_path / "start")
    settings = cases.train(name)
    assert settings.init_from == began.run_dir
    train(name, tmp_path / "tuned", f"--init_from={tmp_path / 'start'}", "--decay_epochs=1")
    moved = changed(values(tmp_path / "start/model.keras"), values(tmp_path / "tuned/model.keras"))
    kinds = {path.rsplit("/", 1)[-1] for path in moved}
    assert kinds == {"gamma", "beta", "moving_mean", "moving_variance"}
