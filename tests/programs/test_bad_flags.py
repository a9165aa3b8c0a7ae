"""Command lines and flagfiles that are refused: one line, status 2, nothing written."""

import math

import pytest

from tests.programs.refusals import refused
from tfadv import settings

# A rule in each line: program | command line | words of the message. Q is the quickstart.
COMMAND_LINES = """
train | --epsilon=x | could not convert string to float
train | --epsilon=nan | epsilon must be between 0 and 255 (pixels of 255); received nan
train | --epsilon=256 | epsilon must be between 0 and 255 (pixels of 255); received 256
train | --step_size=0 | step_size must be between 1e-06 and 255 (pixels of 255); received 0.0
train | --targeted=maybe | Non-boolean argument to boolean flag
train | --attack_loss=dlr | attack_loss must be one of cross_entropy, margin; received 'dlr'
train | --num_steps=1e3 | invalid literal for int
train | --num_steps=-1 | num_steps must be between 0 and 1000000; received -1
train | --num_steps | Missing value for flag
train | --dataset=imagenet | the data set must be one of digits, mnist
train | --dataset= | dataset must be text in one line
train | Q --image_size=9 | image_size must be 8 for digits, which has no other; received 9
train | Q --dataset=synthetic --image_size=65 | image_size of small_resnet must be between 8 and 64
train | --dataset=image_folder | data_dir must be given for image_folder
train | --data_dir=x | imagenet2012 is not prepared in x; to prepare it, run: python -m tfadv.data
train | --resume | imagenet2012 is not prepared in
train | Q --network=vgg | network must be one of resnet, resnet_denoise
train | Q --network=resnet --depth=50 | image_size of resnet must be at least 32 pixels; received 8
train | Q --depth=9 | depth of small_resnet must be 6n + 2
train | Q --dataset=synthetic --network=resnet --depth=51 --image_size=32 | depth of resnet must be
train | Q --blocks=1,x | blocks must be integers, separated by commas; received '1,x'
train | Q --blocks=1,0 | blocks must be between 1 and 1000; received 0
train | Q --blocks=1,1 | blocks must be None for small_resnet
train | Q --norm=syncbn | norm must be one of bn, mbn, gn, ln, in
train | Q --affine=shared --norm=bn | affine=shared needs norm=mbn; received norm=bn
train | Q --init_from=nowhere | init_from must be a run with a checkpoint, or a .keras file
train | Q --init_from=~nobody/x | init_from must be a run with a checkpoint
train | Q --init_from=. | init_from must be a run with a checkpoint
train | Q --run_dir=x --init_from=x | init_from must be another run than run_dir
train | Q --trainable=norm | trainable=norm needs init_from
train | Q --adversarial=false | norm=mbn needs adversarial and clean images in every batch
train | Q --clean_ratio=0 | norm=mbn needs adversarial and clean images in every batch
train | Q --pairing_weight=inf | pairing_weight must be between 0 and 1000; received inf
train | Q --batch_statistics=apart | batch_statistics=apart needs norm=bn, or norm=mbn with
train | Q --norm=gn --statistics=shared | statistics=shared needs norm=mbn; received norm=gn
train | Q --norm=bn --clean_ratio=0 --batch_statistics=apart | batch_statistics=apart needs
train | Q --norm=bn --clean_ratio=0 --pairing_weight=1 | pairing_weight needs adversarial and clean
train | Q --running_statistics=21 | running_statistics must be at most epochs=20; received 21
train | Q --norm=gn --running_statistics=1 | running_statistics needs norm=bn or norm=mbn
train | Q --epochs=99999999999999999999 | epochs must be between 1 and 1000000; received 9999
train | Q --batch_size=33 | batch_size must be a multiple of images_per_worker=32 times 1 worker;
train | Q --batch_size=128 --attack_parts=3 | attack_parts must divide the 4 accumulated steps of
train | Q --decay_epochs=9,3 | decay_epochs must increase; received 9,3
train | Q --decay_epochs=3.5 | decay_epochs must be integers
train | Q --decay=exponential --decay_rate=0 | decay_rate must be above 0; received 0.0
train | Q --eval_num_steps=10,,20 | eval_num_steps must be integers
train | Q --run_dir= --resume | resume needs run_dir; received none
train | Q --run_dir=text.txt | run_dir must be a directory; received text.txt
train | Q --run_dir=text.txt/run | where {tmp}/text.txt is a file
train | Q --run_dir=other | run_dir must be new, empty or a run of tfadv; received other
train | Q --colour=red | Unknown command line flag 'colour'
train | Q run | arguments must be flags (--name=value); received 'run'
train | Q -- --seed=1 | arguments must be flags (--name=value); received '--seed=1'
train | --flagfile=none.flags | flagfile must be a file; received 'none.flags'
evaluate | --num_steps=0 --run_dir=x | num_steps must be between 1
evaluate | --domain=dirty --run_dir=x | domain must be one of adv, clean, both; received 'dirty'
evaluate | --dataset=digits | one of run_dir and model must be given
evaluate | --run_dir=x --model=y | one of run_dir and model must be given
evaluate | --run_dir=nowhere | run_dir must hold a run of tfadv.train; received nowhere
evaluate | --model=text.txt | dataset must be given with model; received none
evaluate | --model=nowhere.keras --dataset=digits | model must be a .keras file
evaluate | --model=other --dataset=digits | model must be a .keras file; received other
evaluate | --model=text.txt --dataset=digits --output=nowhere/x.json | output must be in a directory
evaluate | --model=text.txt --dataset=digits --output=other | output must be a file; other is a
evaluate | --model=text.txt --dataset=digits --value_range=0,1,2 | value_range must be low,high
evaluate | --model=text.txt --dataset=digits --value_range=1,1 | value_range must be low,high
inspect | --channels=0 --run_dir=x | channels must be between 1 and 1000; received 0
inspect | --model=text.txt | output must be given with model; received none
inspect | --model=text.txt --output=text.txt | output must be a directory
inspect | --model=text.txt --output=new --dataset=image_folder | Figure 6 out with --figure6=false
predict | --run_dir=x | directory must be given, after the flags; received none
predict | --run_dir=x a b | one directory must be given; received a b
predict | text.txt | one of run_dir and model must be given
predict | --model=text.txt --class_names other | class_names needs run_dir, or dataset with model
predict | --model=text.txt --output=other other | output must be a file; other is a directory
predict | --model=text.txt nowhere | the images must be in a directory; received 'nowhere'
predict | --model=text.txt empty | the directory must hold images; 'empty' holds no file
plan | --device=v1000 | device must be here or one of v100, a100, h100
plan | --device=v100 --dtype=mixed_bfloat16 | dtype of device v100 must be one of
plan | --device=here --efficiency=0.5 | efficiency must not be given with device=here
plan | --workers=7 | batch_size must be a multiple of images_per_worker=32 times 7 workers
plan | --bandwidth=0 | bandwidth must be between 1e-06
plan | --dataset=image_folder | data_dir must be given for image_folder
plan | --dataset=image_folder --data_dir=other | other/train is not there
plan | --dataset=imagenet | the data set must be one of digits, mnist
plan | --run_dir=nowhere | run_dir must hold a run of tfadv.train; received nowhere
plan | Q --depth=9 | depth of small_resnet must be 6n + 2
plan | Q run | arguments must be flags (--name=value); received 'run'
report |  | directories must be given, after the flags; received none
report | nowhere | directories must hold runs of tfadv.train that were evaluated; nowhere: no run
report | --output=text.txt other | output must be a directory; received text.txt
report | --output= other | output must be text in one line, with no blanks around it; received ''
""".strip().splitlines()

# Texts of a flagfile for tfadv.train, and words of the message.
FLAGFILES = [
    (b"epochs=3\n", "flagfile {tmp}/x.flags, line 1: must be a flag or a comment; received 'epoch"),
    (b"# fine\n\n--epochs=3\n--\n", "line 4: must be a flag or a comment; received '--'"),
    (b"--run_dir='runs/x\n", "line 1: a value that begins with ' must end with it; received"),
    (b'--run_dir="\n', 'line 1: a value that begins with " must end with it'),
    (b"--run_dir='x'  # mine\n", "line 1: a value that begins with ' must end with it"),
    (b"\n--epochs=3  # few\n", "line 2: a comment must have a line of its own, and a value that"),
    (b"--run_dir=runs/x #1\n", "a value that holds ' #' must be in quotes; received '--run_dir=r"),
    (b"--flagfile=x.flags\n", "flagfile must not include itself; received {tmp}/x.flags"),
    (b"--flagfile=y.flags\n", "flagfile must be a file; received 'y.flags'"),
    (b"--flagfile=other\n", "flagfile must be a file; received 'other'"),
    (b"--flagfile y.flags\n", "line 1: --flagfile needs '=' here"),
    (b"--flagfile=~nobody/y.flags\n", "flagfile must be a file; received '~nobody/y.flags'"),
    (b"\xff\xfe-\x00-\x00", "flagfile must be text in UTF-8; {tmp}/x.flags: "),
    (b"--flagfile=" + b"y" * 300, "File name too long"),
    (b"--epochs=3\x00\n", "invalid literal for int"),
    (b"--run_dir=a\x00b\n", "run_dir must be text in one line"),
    (b"--unknown\n", "Unknown command line flag 'unknown'"),
]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no model")
    return tmp_path


@pytest.mark.parametrize("line", COMMAND_LINES, ids=lambda line: line[:60])
def test_bad_command_lines(line, directory, capsys):
    program, arguments, words = (part.strip() for part in line.split(" | ", 2))
    arguments = arguments.replace("Q", "--flagfile=flags/quickstart.flags").split()
    assert words.replace("{tmp}", str(directory)) in refused(program, arguments, capsys)


@pytest.mark.parametrize("text, words", FLAGFILES, ids=range(len(FLAGFILES)))
def test_bad_flagfiles(text, words, directory, capsys):
    (directory / "x.flags").write_bytes(text)
    line = refused("train", ["--flagfile=x.flags"], capsys)
    assert words.replace("{tmp}", str(directory)) in line


def test_a_resumed_run_may_change_free_settings_and_no_others():
    free = set(settings.names(settings.TRAIN, settings.Role.FREE))
    assert {"resume", "data_dir", "eval_every", "stall_seconds"} <= free
    assert not {"seed", "epsilon", "norm", "init_from", "gradient_compression"} & free


def test_every_number_has_two_finite_bounds():
    for program in ("TRAIN", "EVALUATE", "INSPECT", "PREDICT", "PLAN"):
        for setting in getattr(settings, program):
            if setting.type in (int, float, [int]):
                assert math.isfinite(setting.low) and math.isfinite(setting.high), setting.name
