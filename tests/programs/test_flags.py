"""Flags: what is accepted, what is refused, in the words that the user sees."""

import os
import subprocess
import sys
import threading
import time

import pytest

import tfadv
from tests.data.conftest import folder  # noqa: F401
from tfadv import launcher
from tfadv.programs import command_lines, flags
from tfadv.programs.settings import EVALUATE, TRAIN

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
    settings.epsilon = 16  # by default that of the run
    assert paper == settings


def test_a_written_flagfile_gives_the_same_settings(tmp_path):
    settings, _ = command_lines.train([QUICK, "--clean_weight=0.25", "--blocks="])
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
        ("--run_dir=''", "run_dir", None),
        ("--norm='mbn'", "norm", "mbn"),
        ('--decay_epochs="3,5"', "decay_epochs", (3, 5)),
        ("--epsilon='8'", "epsilon", 8.0),
        ('--targeted="false"', "targeted", False),
        ("--flagfile='other.flags'", "epochs", 3),
    ],
)
def test_quotes_around_a_value_in_a_flagfile_are_taken_off(line, name, value, tmp_path):
    (tmp_path / "other.flags").write_text("--epochs=3\n")
    (tmp_path / "x.flags").write_text(line + "\n")
    settings = flags.parse(TRAIN, ["--flagfile=x.flags"])
    assert getattr(settings, name) == value


@pytest.mark.parametrize("name", ["'x'", '"x"', "'", "\"'", "'a' 'b'", "it's", 'a"b', "\\'"])
def test_quotes_that_belong_to_a_value_are_written_and_read_again(name, tmp_path):
    settings = flags.parse(TRAIN, [f"--run_dir={name}"])
    assert settings.run_dir == name  # on a command line quotes are the shell's
    (tmp_path / "x.flags").write_text(flags.flagfile(TRAIN, settings))
    assert flags.parse(TRAIN, ["--flagfile=x.flags"]) == settings


@pytest.mark.parametrize(
    "text, message",
    [
        ("--run_dir='runs/x\n", "line 1: a value that begins with ' must end with it; received"),
        ('--run_dir="\n', 'line 1: a value that begins with " must end with it'),
        ("--run_dir='runs/x'  # mine\n", "line 1: a value that begins with ' must end with it"),
        ("--flagfile=x.flags\n", "must not include itself"),
        ("epochs=3\n", "line 1: must be a flag or a comment; received 'epochs=3'"),
        ("--flagfile x.flags\n", "line 1: --flagfile needs '='"),
    ],
)
def test_flagfiles_that_are_refused(tmp_path, text, message):
    (tmp_path / "x.flags").write_text(text)
    with pytest.raises(ValueError, match=message):
        flags.parse(TRAIN, ["--flagfile=x.flags"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset=foo"], "data set must be one of digits, .*; received 'foo'"),
        ([QUICK, "--norm=xn"], "norm must be one of bn, mbn, gn, ln, in; received 'xn'"),
        ([QUICK, "--depth=13"], r"depth of small_resnet must be 6n \+ 2 .*; received 13"),
        ([QUICK, "--network=resnet"], "image_size of resnet must be at least 32 pixels"),
        (["--epsilon=-1"], r"epsilon must be between 0 and 255 \(pixels of 255\); received -1"),
        (["--epsilon=256"], r"epsilon must be between 0 and 255 \(pixels of 255\); received 256"),
        (["--epsilon=nan"], "epsilon must be between 0 and 255"),
        (["--epsilon=x"], "could not convert string to float"),
        (["--num_steps=-1"], "num_steps must be between 0 and 1000000; received -1"),
        (["--batch_size=0"], "batch_size must be between 1 and 16777216; received 0"),
        ([QUICK, "--batch_size=48"], "multiple of images_per_worker=32 times 1 workers"),
        ([QUICK, "--clean_ratio=0"], "norm=mbn needs adversarial and clean images"),
        ([QUICK, "--adversarial=false"], "norm=mbn needs adversarial and clean images"),
        ([QUICK, "--norm=bn", "--affine=shared"], "affine=shared needs norm=mbn"),
        ([QUICK, "--norm=gn", "--running_statistics=3"], "running_statistics needs norm=bn"),
        ([QUICK, "--running_statistics=99"], "at most epochs=20; received 99"),
        ([QUICK, "--decay_epochs=5,3"], "decay_epochs must increase; received 5,3"),
        ([QUICK, "--decay_epochs=5,x"], "decay_epochs must be integers"),
        ([QUICK, "--decay=exponential", "--decay_rate=0"], "decay_rate must be above 0"),
        ([QUICK, "--decay_rate=1.5"], "decay_rate must be between 0 and 1; received 1.5"),
        ([QUICK, "--optimizer=adam"], "optimizer must be one of sgd, rmsprop; received 'adam'"),
        ([QUICK, "--trainable=norm"], "trainable=norm needs init_from"),
        ([QUICK, "--init_from=none"], "init_from must be a run with a .*file; received .*none"),
        ([QUICK, "--init_from=."], "init_from must be a run with a checkpoint, or a .keras file"),
        (
            [QUICK, "--rmsprop_epsilon=0"],
            "rmsprop_epsilon must be between 1e-10 and 1000000.0; received 0",
        ),
        ([QUICK, "--run_dir=x", "--init_from=x"], "init_from must be another run than run_dir"),
        ([QUICK, "--image_size=9"], "image_size must be 8 for digits"),
        (["--resume"], "not prepared"),
        (
            ["--dataset=imagenet2012"],
            "to prepare it, run: python -m tfadv.data prepare imagenet2012",
        ),
        (["--colour=red"], "Unknown command line flag 'colour'"),
        (["train"], "arguments must be flags"),
        (["--flagfile=none.flags"], "flagfile must be a file; received 'none.flags'"),
        ([QUICK, "--attack_loss=x"], "attack_loss must be one of cross_entropy, margin"),
    ],
)
def test_wrong_flags_of_train(flags, message, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=message) as raised:
        command_lines.train(flags)
    assert "\n" not in str(raised.value)


def test_the_number_of_workers_decides_what_divides(monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "3")
    assert launcher.workers() == 3
    with pytest.raises(ValueError, match="times 3 workers; received 64"):
        command_lines.train([QUICK])


def test_a_batch_of_more_images_than_there_are_is_warned_of(folder, monkeypatch):  # noqa: F811
    command_lines.train([QUICK, "--batch_size=1437", "--images_per_worker=1437"])  # each image once
    message = (
        "^batch_size=4096 is more than the 1437 training images of digits: every update takes each "
        "image about 2.85 times; a batch_size of at most 1437 takes it at most once$"
    )
    for read in (command_lines.train, command_lines.plan):
        with pytest.warns(UserWarning, match=message):
            read([QUICK, "--batch_size=4096"])
    flags = ["--dataset=image_folder", f"--data_dir={folder}", "--batch_size=32"]
    with pytest.warns(UserWarning, match="than the 12 training images of image_folder: .* 2.67"):
        command_lines.train(flags)
    # One worker says so, and not the launcher's check before it.
    monkeypatch.setenv("HOROVOD_SIZE", "1")
    command_lines.train(flags)
    monkeypatch.setenv("HOROVOD_RANK", "1")
    command_lines.train(flags)
    monkeypatch.setenv("HOROVOD_RANK", "0")
    with pytest.warns(UserWarning, match="more than the 12 training images"):
        command_lines.train(flags)


def test_the_check_warns_in_one_line(folder):  # noqa: F811
    flags = ["--dataset=image_folder", f"--data_dir={folder}", "--batch_size=32", "--check"]
    done = subprocess.run(
        [sys.executable, "-m", "tfadv.train", *flags], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.startswith("tfadv.train: warning: batch_size=32 is more than the 12 ")
    assert done.stderr.count("\n") == 1


def test_run_directories_are_safe(tmp_path):
    settings, run = command_lines.train([QUICK, "--run_dir=x"])
    run.open(settings)
    with pytest.raises(ValueError, match="run_dir must be new, or --resume"):
        command_lines.train([QUICK, "--run_dir=x"])
    with pytest.raises(ValueError, match="run_dir must not be in use by another training"):
        command_lines.train([QUICK, "--run_dir=x", "--resume"])
    run.close()
    command_lines.train([QUICK, "--run_dir=x", "--resume", "--eval_every=1"])
    with pytest.raises(ValueError, match="epsilon must be 80.0 to continue the run in x"):
        command_lines.train([QUICK, "--run_dir=x", "--resume", "--epsilon=8"])
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="run_dir must be new, empty or a run of tfadv"):
        command_lines.train([QUICK, "--run_dir=y"])


def test_a_run_killed_before_its_flags_were_written_can_be_started(tmp_path):
    (tmp_path / "x" / ".flags.txt.writing").mkdir(parents=True)
    (tmp_path / "x" / ".lock").touch()
    settings, run = command_lines.train([QUICK, "--run_dir=x", "--resume"])
    run.open(settings)
    run.close()
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "checkpoints", "flags.txt"]


def test_the_lock_of_a_run_that_was_killed_is_taken_over(tmp_path, monkeypatch):
    code = (
        "import sys\nfrom tfadv.programs import command_lines\n"
        "settings, run = command_lines.train(sys.argv[1:])\nrun.open(settings)\n"
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
            command_lines.train(again)
        # One that a launcher starts again waits for the one before it.
        monkeypatch.setenv("TFADV_LOCK_SECONDS", "60")
        threading.Timer(0.5, other.kill).start()
        command_lines.train(again)
        monkeypatch.delenv("TFADV_LOCK_SECONDS")
    assert (tmp_path / "x" / ".lock").exists()
    settings, run = command_lines.train(again)
    run.open(settings)
    run.close()


def test_init_from_is_a_file_or_a_run(tmp_path, monkeypatch):
    (tmp_path / "m.keras").touch()
    (tmp_path / "m.txt").touch()
    flags = [QUICK, "--trainable=norm"]
    settings, run = command_lines.train([*flags, "--init_from=m.keras", "--run_dir="])
    # As it is read from other directories too.
    assert settings.init_from == str(tmp_path / "m.keras")
    assert run.path.name.endswith("-norm-from-m")
    with pytest.raises(ValueError, match="a .keras file; received .*m.txt"):
        command_lines.train([*flags, "--init_from=m.txt"])

    first, run = command_lines.train([QUICK, "--run_dir=first"])
    run.open(first)
    with pytest.raises(ValueError, match="a run with a checkpoint, .*; received .*first"):
        command_lines.train([*flags, "--init_from=first"])
    (run.checkpoints / "epoch-0003.keras").touch()
    settings, _ = command_lines.train([*flags, "--init_from=first"])
    assert command_lines.initial_model(settings).name == "epoch-0003.keras"
    run.model.touch()
    assert command_lines.initial_model(settings).name == "model.keras"

    second, run = command_lines.train([*flags, "--init_from=m.keras", "--run_dir=second"])
    run.open(second)
    run.close()
    (tmp_path / "m.keras").unlink()
    again = [*flags, "--init_from=m.keras", "--run_dir=second", "--resume"]
    with pytest.raises(ValueError, match="init_from must be a run"):
        command_lines.train(again)  # it has to begin anew
    with monkeypatch.context() as patch:
        patch.setenv("HOROVOD_RANK", "1")  # which may be on another machine, and reads nothing
        command_lines.train(again)
    (run.checkpoints / "epoch-0001.keras").touch()
    command_lines.train(again)


def test_a_plan_takes_the_flags_of_a_run(tmp_path):
    settings, run = command_lines.train([QUICK, "--run_dir=x", "--seed=7", "--epochs=3"])
    run.open(settings)
    run.close()
    for given in (["--run_dir=x"], ["--run_dir", "x"], ["--flagfile=x/flags.txt"]):
        planned = command_lines.plan(["--workers=2", *given])
        assert (planned.dataset, planned.seed, planned.epochs) == ("digits", 7, 3)
    # A flag that is given wins, wherever it stands, and so does a flagfile.
    assert command_lines.plan(["--epochs=4", "--run_dir=x"]).epochs == 4
    assert command_lines.plan([QUICK, "--run_dir=x"]).epochs == 20
    # Where a flagfile lets a training write does not matter to a plan.
    (tmp_path / "y.flags").write_text("--run_dir=x\n--epochs=5\n")
    assert command_lines.plan([QUICK, "--flagfile=y.flags"]).seed == 0
    for nowhere in ("nowhere", "."):
        with pytest.raises(ValueError, match="run_dir must hold a run of tfadv.train"):
            command_lines.plan([f"--run_dir={nowhere}"])


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "one of run_dir and model must be given"),
        (["--run_dir=none"], "run_dir must hold a run of tfadv.train; received none"),
        (["--model=m.keras"], "dataset must be given with model"),
        (["--model=m.keras", "--dataset=digits"], "model must be a .keras file"),
        (["--run_dir=x", "--num_steps=0"], "num_steps must be between 1 and 1000000; received 0"),
        (["--run_dir=x", "--domain=both_"], "domain must be one of adv, clean, both"),
    ],
)
def test_wrong_flags_of_evaluate(flags, message):
    with pytest.raises(ValueError, match=message):
        command_lines.evaluate(flags)


def test_a_program_says_it_in_one_line_without_tensorflow():
    code = (
        "import runpy, sys; sys.argv = ['-m', '--epsilon=-1'];"
        "sys.orig_argv = ['python', '-m', 'tfadv.train'];"
        'exec(\'try: runpy.run_module("tfadv.train", run_name="__main__")\\nexcept SystemExit as e:'
        ' sys.exit(50 if "tensorflow" in sys.modules else e.code)\')'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    line = "tfadv.train: epsilon must be between 0 and 255 (pixels of 255); received -1.0\n"
    assert (done.stdout, done.stderr) == ("", line)


def test_another_worker_leaves_a_mistake_to_rank_0_whose_end_ends_it(tmp_path):
    status = tmp_path / "status"
    launch = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "TFADV_STATUS_FILE": str(status)}
    with subprocess.Popen(
        [sys.executable, "-m", "tfadv.train", "--epsilon=-1"],
        env=os.environ | launch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as worker:
        while worker.poll() is None and not (status.exists() and status.read_text()):
            time.sleep(0.05)
        worker.terminate()  # as the launcher does when rank 0 has ended
        assert worker.stdout.read() == b""
    assert status.read_text() == "2"


def test_an_epsilon_of_other_libraries_is_warned_of_before_anything_runs():
    message = r"^epsilon is in pixels of 255; received 0\.031 .* give epsilon=7\.905 here"
    with pytest.warns(UserWarning, match=message):
        command_lines.train([QUICK, "--run_dir=x", "--epsilon=0.031", "--check"])
