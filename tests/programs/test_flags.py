"""Flags and flagfiles: what they resolve to. test_bad_flags.py has what is refused."""

import os
import pathlib

import pytest

from tfadv.programs import flags
from tfadv.settings import EVALUATE, TRAIN

QUICK = "--flagfile=flags/quickstart.flags"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_defaults_are_the_papers():
    settings = flags.parse(TRAIN, [])
    expected = dict(
        dataset="imagenet2012", network="resnet", depth=152, norm="bn", clean_ratio=1.0,
        epsilon=16, step_size=1, num_steps=30, targeted=True, start_from_clean=0.2, epochs=110,
        batch_size=4096, images_per_worker=32, learning_rate=0.1, warmup_epochs=5,
        decay_epochs=(35, 70, 95), momentum=0.9, weight_decay=1e-4, label_smoothing=0.1,
        keep_checkpoints=10, attack_loss="cross_entropy", restarts=1,
    )  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected
    base = flags.parse(TRAIN, ["--flagfile=flags/base.flags"])
    assert base == settings


def test_defaults_of_an_evaluation_are_the_papers():
    settings = flags.parse(EVALUATE, [])
    assert settings.num_steps == (10, 20, 100, 500, 2000)
    assert (settings.step_size, settings.start_from_clean, settings.targeted) == (1, 0, True)
    paper = flags.parse(EVALUATE, ["--flagfile=flags/eval/paper.flags"])
    settings.epsilon, settings.attack_norm = 16, "linf"  # by default those of the run
    assert paper == settings


def test_a_written_flagfile_gives_the_same_settings(tmp_path):
    settings = flags.parse(TRAIN, [QUICK, "--clean_weight=0.25", "--blocks="])
    path = tmp_path / "flags.txt"
    path.write_text(flags.flagfile(TRAIN, settings))
    assert flags.parse(TRAIN, [f"--flagfile={path}"]) == settings


def test_flagfiles_include_each_other_from_anywhere_and_the_last_value_wins(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.flags").write_text("# a comment\n--epochs=3\n--num_steps=7\n")
    (tmp_path / "b.flags").write_text("--flagfile=parts/a.flags\n--epochs=4\n")
    path = tmp_path / "b.flags"
    os.chdir("/")
    settings = flags.parse(TRAIN, [f"--flagfile={path}", "--seed=9"])
    assert (settings.epochs, settings.num_steps, settings.seed) == (4, 7, 9)


@pytest.mark.parametrize(
    "line, name, value",
    [
        ("--run_dir='runs/my run'", "run_dir", "runs/my run"),
        ('--run_dir="runs/my run"', "run_dir", "runs/my run"),
        ("--run_dir=runs/my run", "run_dir", "runs/my run"),
        ("""--run_dir="it's mine\"""", "run_dir", "it's mine"),
        ("--run_dir=it's mine", "run_dir", "it's mine"),
        ("--run_dir=say 'x'", "run_dir", "say 'x'"),
        ("""--run_dir="'x'\"""", "run_dir", "'x'"),
        (r"--run_dir='a\'", "run_dir", "a\\"),
        ("--run_dir='a # b'", "run_dir", "a # b"),
        ("--run_dir=a#b", "run_dir", "a#b"),
        ("--run_dir=''", "run_dir", None),
        ("--norm='mbn'", "norm", "mbn"),
        ('--decay_epochs="3,5"', "decay_epochs", (3, 5)),
        ("--epsilon='8'", "epsilon", 8.0),
        ('--targeted="false"', "targeted", False),
        ("--flagfile='other.flags'", "epochs", 3),
    ],
)
def test_quotes_around_a_value_in_a_flagfile_are_removed(line, name, value, tmp_path):
    (tmp_path / "other.flags").write_text("--epochs=3\n")
    (tmp_path / "x.flags").write_text(line + "\n")
    settings = flags.parse(TRAIN, ["--flagfile=x.flags"])
    assert getattr(settings, name) == value


@pytest.mark.parametrize(
    "name", ["'x'", '"x"', "'", "\"'", "'a' 'b'", "it's", 'a"b', "\\'", "a # b", "'a' # b"]
)
def test_a_value_with_quotes_or_a_hash_is_written_and_read_again(name, tmp_path):
    settings = flags.parse(TRAIN, [f"--run_dir={name}"])
    assert settings.run_dir == name  # on a command line quotes are the shell's
    (tmp_path / "x.flags").write_text(flags.flagfile(TRAIN, settings))
    assert flags.parse(TRAIN, ["--flagfile=x.flags"]) == settings


def test_the_flags_of_an_older_run_may_hold_a_hash_without_quotes(tmp_path):
    (tmp_path / "flags.txt").write_text("--data_dir=data #2\n")
    assert flags.parse(TRAIN, ["--flagfile=flags.txt"]).data_dir == "data #2"


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.flags").write_text("--data_dir=~/data\n")
    given = ["--flagfile=~/x.flags", "--run_dir=~/runs/x", "--init_from=~no-such-user/x"]
    settings = flags.parse(TRAIN, given)
    assert settings.data_dir == f"{tmp_path}/data" and settings.run_dir == f"{tmp_path}/runs/x"
    assert settings.init_from == "~no-such-user/x"
    assert flags.given_directly(TRAIN, given, "run_dir") == f"{tmp_path}/runs/x"
    assert flags.given_directly(TRAIN, given, "data_dir") is None
    assert flags.parse(TRAIN, ["--dataset=~"]).dataset == "~"  # it names no file


def test_every_setting_that_names_a_file_is_a_path():
    paths = {setting.name for setting in TRAIN + EVALUATE if setting.type is pathlib.Path}
    assert paths == {"data_dir", "init_from", "run_dir", "model", "output", "image_names"}
