"""Run directories: who may use them, and which models they give."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

import tfadv
from tests.programs.test_flags import QUICK
from tfadv.programs import plan, train
from tfadv.programs.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_run_directories_are_safe(tmp_path):
    settings, run = train.parse([QUICK, "--run_dir=x"])
    run.open(settings)
    with pytest.raises(ValueError, match="run_dir must be new, or --resume"):
        train.parse([QUICK, "--run_dir=x"])
    with pytest.raises(ValueError, match="run_dir must not be in use by another training"):
        train.parse([QUICK, "--run_dir=x", "--resume"])
    run.close()
    train.parse([QUICK, "--run_dir=x", "--resume", "--eval_every=1"])
    with pytest.raises(ValueError, match="epsilon must be 80.0 to continue the run in x"):
        train.parse([QUICK, "--run_dir=x", "--resume", "--epsilon=8"])
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="run_dir must be new, empty or a run of tfadv"):
        train.parse([QUICK, "--run_dir=y"])


def test_a_run_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings, run = train.parse([QUICK, "--run_dir=~/x"])
    run.open(settings)
    run.close()
    assert (tmp_path / "home" / "x" / "flags.txt").is_file() and not (tmp_path / "~").exists()
    train.parse([QUICK, "--run_dir=~/x", "--resume"])


def test_a_run_killed_before_its_flags_were_written_can_be_started(tmp_path):
    (tmp_path / "x" / ".flags.txt.writing").mkdir(parents=True)
    (tmp_path / "x" / ".lock").touch()
    settings, run = train.parse([QUICK, "--run_dir=x", "--resume"])
    run.open(settings)
    run.close()
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "checkpoints", "flags.txt"]


def test_the_lock_of_a_killed_run_is_free(tmp_path, monkeypatch):
    code = (
        "import sys\nfrom tfadv.programs import train\n"
        "settings, run = train.parse(sys.argv[1:])\nrun.open(settings)\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, QUICK, "--run_dir=x"],
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(tfadv.__file__))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"open\n"
        again = [QUICK, "--run_dir=x", "--resume"]
        with pytest.raises(ValueError, match="run_dir must not be in use by another training"):
            train.parse(again)
        # A training that a launcher restarts waits for the end of the one before.
        monkeypatch.setenv("TFADV_LOCK_SECONDS", "60")
        threading.Timer(0.5, other.kill).start()
        train.parse(again)
        monkeypatch.delenv("TFADV_LOCK_SECONDS")
    assert (tmp_path / "x" / ".lock").exists()
    settings, run = train.parse(again)
    run.open(settings)
    run.close()


def test_init_from_is_a_file_or_a_run(tmp_path, monkeypatch):
    (tmp_path / "m.keras").touch()
    (tmp_path / "m.txt").touch()
    flags = [QUICK, "--trainable=norm"]
    settings, run = train.parse([*flags, "--init_from=m.keras", "--run_dir="])
    # It is read from other directories too.
    assert settings.init_from == str(tmp_path / "m.keras")
    assert run.path.name.endswith("-norm-from-m")
    with pytest.raises(ValueError, match="a .keras file; received .*m.txt"):
        train.parse([*flags, "--init_from=m.txt"])

    first, run = train.parse([QUICK, "--run_dir=first"])
    run.open(first)
    with pytest.raises(ValueError, match="a run with a checkpoint, .*; received .*first"):
        train.parse([*flags, "--init_from=first"])
    (run.checkpoints / "epoch-0003.keras").touch()
    settings, _ = train.parse([*flags, "--init_from=first"])
    assert train.initial_model(settings).name == "epoch-0003.keras"
    run.model.touch()
    assert train.initial_model(settings).name == "model.keras"

    second, run = train.parse([*flags, "--init_from=m.keras", "--run_dir=second"])
    run.open(second)
    run.close()
    (tmp_path / "m.keras").unlink()
    again = [*flags, "--init_from=m.keras", "--run_dir=second", "--resume"]
    with pytest.raises(ValueError, match="init_from must be a run"):
        train.parse(again)  # there is no checkpoint, so it starts over
    with monkeypatch.context() as patch:
        patch.setenv("HOROVOD_RANK", "1")  # it may be on another machine, and reads nothing
        train.parse(again)
    (run.checkpoints / "epoch-0001.keras").touch()
    train.parse(again)


def test_a_plan_takes_the_flags_of_a_run(tmp_path):
    settings, run = train.parse([QUICK, "--run_dir=x", "--seed=7", "--epochs=3"])
    run.open(settings)
    run.close()
    for given in (["--run_dir=x"], ["--run_dir", "x"], ["--flagfile=x/flags.txt"]):
        planned = plan.parse(["--workers=2", *given])
        assert (planned.dataset, planned.seed, planned.epochs) == ("digits", 7, 3)
    # A flag that is given wins, wherever it stands, and so does a flagfile.
    assert plan.parse(["--epochs=4", "--run_dir=x"]).epochs == 4
    assert plan.parse([QUICK, "--run_dir=x"]).epochs == 20
    # Where a flagfile lets a training write does not matter to a plan.
    (tmp_path / "y.flags").write_text("--run_dir=x\n--epochs=5\n")
    assert plan.parse([QUICK, "--flagfile=y.flags"]).seed == 0
    for nowhere in ("nowhere", "."):
        with pytest.raises(ValueError, match="run_dir must hold a run of tfadv.train"):
            plan.parse([f"--run_dir={nowhere}"])


def test_tensorboard_of_a_run_of_an_earlier_version_goes_on_where_it_is(tmp_path):
    assert RunDirectory(tmp_path).tensorboard == tmp_path
    (tmp_path / "tensorboard").mkdir()
    assert RunDirectory(tmp_path).tensorboard == tmp_path / "tensorboard"


def test_a_worker_sees_the_directory_or_has_its_own(tmp_path):
    settings, run = train.parse([QUICK, "--run_dir=x/y"])
    run.open(settings)
    signature = run.sign()
    assert RunDirectory(tmp_path / "x" / "y").is_signed(signature)
    assert not RunDirectory(tmp_path / "x" / "z" / "a").is_signed(signature)
    assert [path.name for path in (tmp_path / "x").iterdir()] == [
        "y"
    ]  # the question leaves nothing
    shutil.copytree(tmp_path / "x", tmp_path / "copy")
    assert RunDirectory(tmp_path / "copy" / "y").is_signed(signature)
    signature = run.sign()  # of the same run, started again
    assert RunDirectory(tmp_path / "x" / "y").is_signed(signature)
    assert not RunDirectory(tmp_path / "copy" / "y").is_signed(signature)
    run.close()
