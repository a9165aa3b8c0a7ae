"""The study's runner: its grid can be trained, and it does what is missing, once."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import study

from tfadv.programs import flags, rules
from tfadv.settings import EVALUATE, TRAIN

RECIPE = Path("flags/study/recipe.flags")


def test_every_run_of_the_grid_can_be_trained_and_evaluated():
    runs = study.all_runs()
    outputs = {(run.name, run.output) for run in runs}
    assert len(outputs) == len(runs)
    by_name = {run.name: run for run in runs}
    for run in runs:
        settings = flags.parse(TRAIN, run.train)
        if run.first is not None:
            assert by_name[run.first].seed == run.seed
            settings.init_from = run.first
        rules.check_training(settings, workers=1)
        assert settings.seed == run.seed and not settings.strong_eval_num_steps
        assert not run.inspect or settings.norm in ("bn", "mbn")
        evaluation = flags.parse(EVALUATE, run.evaluate)
        assert evaluation.seed == run.seed
        # One trajectory: a step size that no number of steps raises.
        assert evaluation.attack == "autoattack" or evaluation.step_size_rule == "fixed"
        assert (evaluation.domain == "both") == (
            settings.norm == "mbn" and run.output == "evaluation.json"
        )
        # The test images are for the study alone.
        on_test = settings.dataset in ("fashion_mnist", "fashion_mosaics")
        assert on_test == run.name.startswith("study/")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Runs in an empty directory, with programs that only leave their files; lists their calls."""
    monkeypatch.chdir(tmp_path)  # undone afterwards, where the runner goes too
    monkeypatch.setattr(study, "ROOT", tmp_path)
    calls = []

    def program(name, *arguments):
        calls.append((name, arguments))
        if name == "report":
            return
        directory = Path(arguments[0].removeprefix("--run_dir="))
        directory.mkdir(parents=True, exist_ok=True)
        if name == "train":
            (directory / "flags.txt").write_text(f"--init_from={tmp_path}/x\n")
            (directory / "log.jsonl").write_text('{"seconds": 60.2}\n{"epoch": 2}\n')
            (directory / "model.keras").touch()
        if name == "evaluate":
            Path(arguments[1].removeprefix("--output=")).write_text('{"results": []}')
        if name == "inspect":
            (directory / "inspection").mkdir()
            (directory / "inspection/statistics.csv").write_text("layer\n")

    monkeypatch.setattr(study, "_program", program)
    return calls


def test_what_is_done_is_not_done_again(programs, capsys):
    name = "study/mbn/seed0"
    assert study.main([name, "--jobs=1"]) == 0
    expected = ["train", "evaluate", "inspect", "evaluate", "evaluate", "report"]
    assert [call[0] for call in programs] == expected
    results = Path("docs/study/results", name)
    assert {path.name for path in results.iterdir()} == {
        *("evaluation.json", "evaluation-autoattack.json", "evaluation-2000.json"),
        *("cost.json", "cost-autoattack.json", "cost-2000.json", "flags.txt", "statistics.csv"),
    }
    assert (results / "flags.txt").read_text() == "--init_from=x\n"  # no path of this machine
    assert json.loads((results / "cost.json").read_text())["seconds"]["train"] == 60
    lines = Path("docs/study/runs.md").read_text().splitlines()
    assert "| study/mbn | 1 | 60 | 0 |" in lines and "| study/mbn, PGD-2000 | 1 | 60 | 0 |" in lines
    for done in ([name, "--jobs=1"], ["--report"]):
        programs.clear()
        assert study.main(done) == 0 and [call[0] for call in programs] == ["report"]
    # A second evaluation takes the network that is there, and so does a killed one.
    (results / "cost-2000.json").unlink()
    assert "3 of 3" in capsys.readouterr().out
    study.main([name, "--jobs=1"])
    assert [call[0] for call in programs[1:]] == ["evaluate", "report"]
    # In a clone without runs, the missing evaluation trains its network again.
    shutil.rmtree("runs")
    (results / "cost-2000.json").unlink()
    programs.clear()
    study.main([name, "--jobs=1"])
    assert [call[0] for call in programs] == ["train", "evaluate", "report"]


def test_the_map_at_a_glance(programs):
    for seed, (weak, strong) in enumerate([(0.7, 0.6), (0.8, 0.65)]):
        for run in ("epsilon16-mbn", "recipe-mbn_shared_affine"):
            results = Path(f"docs/study/results/map/{run}/seed{seed}")
            results.mkdir(parents=True)
            (results / "cost.json").write_text('{"seconds": {"train": 1, "evaluate": 1}}')
            document = [
                dict(domain=domain, name=name, accuracy=accuracy)
                for domain, name, accuracy in (
                    ("adv", "PGD-10", weak),
                    ("adv", "PGD-500", strong),
                    ("clean", "PGD-500", 0),
                )
            ]
            (results / "evaluation.json").write_text(json.dumps({"results": document}))
    lines = study.page(study.all_runs()).splitlines()
    assert "| the recipe |  |  |  |  |  | 62.5 (-12.5) |  |  |" in lines
    assert "| `--epsilon=16 --step_size=2` |  |  |  | 62.5 (-12.5) |  |  |  |  |" in lines


def test_a_fine_tuned_run_trains_its_first_network_before(programs):
    study.main(["study/clean_only_on_adversarial/seed1", "--jobs=1"])
    (first, before), (second, tuned), *_ = programs
    assert (first, second) == ("train", "train")
    assert before[0] == "--run_dir=runs/study/study/clean_only/seed1"
    assert tuned[-1] == "--init_from=runs/study/study/clean_only/seed1"


def test_runs_are_made_side_by_side_and_a_network_is_trained_once(programs, monkeypatch):
    fake, all_meet = study._program, threading.Barrier(3, timeout=60)

    def program(name, *arguments):
        if name == "evaluate":
            all_meet.wait()
        fake(name, *arguments)

    monkeypatch.setattr(study, "_program", program)
    assert study.main(["study/gn/seed0", "--jobs=3"]) == 0
    assert sorted(name for name, _ in programs) == [*["evaluate"] * 3, "report", "train"]
    with pytest.raises(SystemExit, match="2"):
        study.main(["--jobs=0"])


def test_a_run_that_fails_does_not_stop_the_others(programs, monkeypatch, capsys):
    fake, broken = study._program, ["study/gn/seed0"]

    def program(name, *arguments):
        if name == "train" and any(each in arguments[0] for each in broken):
            raise SystemExit("study: train ended with status 1")
        fake(name, *arguments)

    monkeypatch.setattr(study, "_program", program)
    monkeypatch.setattr(study, "_MOST_FAILURES", 3)  # three evaluations have this network
    with pytest.raises(SystemExit, match=r"failed: study/gn/seed0 evaluation.json, .*-2000.json;"):
        study.main(["study/gn", "--jobs=1"])
    assert [name for name, _ in programs].count("evaluate") == 6
    assert programs[-1][0] == "report"
    assert "train ended with status 1" in capsys.readouterr().err
    shutil.rmtree("docs")
    shutil.rmtree("runs")
    broken.append("study/gn")
    with pytest.raises(SystemExit, match="4 runs failed"):
        study.main(["study/gn", "--jobs=1"])


def test_sigterm_ends_the_programs_too(tmp_path):
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\ntrap 'echo ended >> log; exit 75' TERM\necho started >> log\n"
        "while :; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    code = (
        "import pathlib, signal, study, sys\n"
        "study.ROOT, study.sys.executable = pathlib.Path.cwd(), './program'\n"
        "signal.signal(signal.SIGTERM, study.stop)\n"
        "study.main(['study/gn/seed0', '--jobs=2'])\n"
    )
    tools = str(Path(study.__file__).parent)
    command = [sys.executable, "-c", code]
    log = tmp_path / "log"
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": tools}) as process:
        while process.poll() is None and not log.is_file():
            time.sleep(0.1)
        process.terminate()
    assert process.returncode
    # The second job had waited for the training of its network; it starts nothing.
    assert log.read_text().split() == ["started", "ended"]


def test_a_stopped_training_is_resumed(programs):
    directory = Path("runs/study/study/gn/seed0")
    directory.mkdir(parents=True)
    (directory / "flags.txt").write_text("")
    study.main(["study/gn/seed0", "--jobs=1"])
    assert programs[0][0] == "train" and programs[0][1][-1] == "--resume"


def test_names_choose_and_unknown_ones_are_refused(programs, capsys):
    study.main(["--list", "map/*-gn", "search/rate_0"])
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) == 2 * len(study.AXES) + 10 and not programs
    study.main(["--list", "map/recipe-gn", "study/alp/", "map/recipe-gn/seed1"])
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert [line.split()[0] for line in lines] == [
        *(f"map/recipe-gn/seed{seed}" for seed in range(2)),
        *(f"study/alp/seed{seed}" for seed in range(2)),
    ]
    with pytest.raises(SystemExit, match="2"):
        study.main(["map/none"])
    assert "received ['map/none']" in capsys.readouterr().err
