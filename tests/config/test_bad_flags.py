"""Command lines and flagfiles that are refused: one line, status 2, nothing written."""

import math

import pytest

from tests.config.refusals import refused
from tfadv.config import flag_table

# A rule of a flag a line: program | command line | words of the message. Q is the quickstart.
COMMAND_LINES = """
train | --epsilon=x | could not convert string to float
train | --epsilon=nan | epsilon must be between 0 and 255 (pixels of 255); received nan
train | --step_size=0 | step_size must be between 1e-06 and 255 (pixels of 255); received 0.0
train | --step_size_rule=paper | step_size_rule must be one of pipeline, fixed; received 'paper'
train | --targeted=maybe | Non-boolean argument to boolean flag
train | --attack_loss=dlr | attack_loss must be one of cross_entropy, margin; received 'dlr'
train | --restarts=0 | restarts must be between 1 and 10000; received 0
train | --num_steps=1e3 | invalid literal for int
train | --num_steps=-1 | num_steps must be between 0
train | --num_steps | Missing value for flag
train | --start_from_clean=1.1 | start_from_clean must be between 0 and 1; received 1.1
train | --dataset=imagenet | the data set must be one of digits, mnist
train | --dataset= | dataset must be text in one line
train | Q --image_size=9 | image_size must be 8 for digits, which has no other; received 9
train | Q --image_size=0 | image_size must be between 1 and 4096; received 0
train | Q --dataset=synthetic --image_size=65 | image_size of small_resnet must be between 8 and 64
train | --dataset=image_folder | data_dir must be given for image_folder
train | --data_dir=x | imagenet2012 is not prepared in x; to prepare it, run: python -m tfadv.data
train | Q --network=vgg | network must be one of resnet, resnet_denoise
train | Q --network=resnet --depth=50 | image_size of resnet must be at least 32 pixels; received 8
train | Q --depth=9 | depth of small_resnet must be 6n + 2
train | Q --dataset=synthetic --network=resnet --depth=51 --image_size=32 | depth of resnet must be
train | Q --depth=10000000 | depth must be between 1 and 10000; received 10000000
train | Q --width=0 | width must be between 1 and 4096; received 0
train | Q --width=100000 | width must be between 1 and 4096; received 100000
train | Q --blocks=1,x | blocks must be integers, separated by commas; received '1,x'
train | Q --blocks=1,0 | blocks must be between 1 and 1000; received 0
train | Q --blocks=1,1 | blocks must be None for small_resnet
train | Q --norm=syncbn | norm must be one of bn, mbn, gn, ln, in; received 'syncbn'
train | Q --affine=both | affine must be one of separate, shared; received 'both'
train | Q --affine=shared --norm=bn | affine=shared needs norm=mbn; received norm=bn
train | Q --init_from=nowhere | init_from must be a run with a checkpoint, or a .keras file
train | Q --init_from=~nobody/x | init_from must be a run with a checkpoint
train | Q --trainable=head | trainable must be one of all, norm; received 'head'
train | Q --trainable=norm | trainable=norm needs init_from
train | Q --adversarial=false | norm=mbn needs adversarial and clean images in every batch
train | Q --clean_ratio=0 | norm=mbn needs adversarial and clean images in every batch
train | Q --clean_ratio=2 | clean_ratio must be between 0 and 1; received 2.0
train | Q --clean_weight=-0.5 | clean_weight must be between 0 and 1; received -0.5
train | Q --pairing_weight=inf | pairing_weight must be between 0 and 1000; received inf
train | Q --norm=bn --clean_ratio=0 --pairing_weight=1 | pairing_weight needs adversarial and clean
train | Q --running_statistics=21 | running_statistics must be at most epochs=20; received 21
train | Q --norm=gn --running_statistics=1 | running_statistics needs norm=bn or norm=mbn
train | Q --epochs=0 | epochs must be between 1
train | Q --epochs=99999999999999999999 | epochs must be between 1 and 1000000; received 9999
train | Q --batch_size=1000000000000 | batch_size must be between 1 and 16777216
train | Q --batch_size=33 | batch_size must be a multiple of images_per_worker=32 times 1 workers
train | Q --images_per_worker=0 | images_per_worker must be between 1 and 65536; received 0
train | Q --steps_per_epoch=0 | steps_per_epoch must be between 1
train | Q --optimizer=adam | optimizer must be one of sgd, rmsprop; received 'adam'
train | Q --momentum=1.5 | momentum must be between 0 and 1; received 1.5
train | Q --rmsprop_rho=-1 | rmsprop_rho must be between 0 and 1; received -1.0
train | Q --rmsprop_epsilon=0 | rmsprop_epsilon must be between 1e-10
train | Q --learning_rate=inf | learning_rate must be between 0 and 1000; received inf
train | Q --learning_rate=-1 | learning_rate must be between 0 and 1000; received -1.0
train | Q --warmup_epochs=-1 | warmup_epochs must be between 0
train | Q --decay=cosine | decay must be one of step, exponential; received 'cosine'
train | Q --decay_epochs=9,3 | decay_epochs must increase; received 9,3
train | Q --decay_epochs=3.5 | decay_epochs must be integers
train | Q --decay=exponential --decay_rate=0 | decay_rate must be above 0; received 0.0
train | Q --decay_every=0 | decay_every must be between 1
train | Q --weight_decay=nan | weight_decay must be between 0 and 1000; received nan
train | Q --label_smoothing=2 | label_smoothing must be between 0 and 1; received 2.0
train | Q --dtype=float64 | dtype must be one of float32, mixed_bfloat16, mixed_float16
train | Q --rematerialize=some | rematerialize must be one of none, step, all; received 'some'
train | Q --max_bad_images=-1 | max_bad_images must be between 0
train | Q --image_pairs=65 | image_pairs must be between 0 and 64; received 65
train | Q --eval_num_steps=10,,20 | eval_num_steps must be integers
train | Q --eval_every=0 | eval_every must be between 1
train | Q --strong_eval_num_steps=0 | strong_eval_num_steps must be between 1
train | Q --strong_eval_every=-5 | strong_eval_every must be between 1
train | Q --eval_limit=0 | eval_limit must be between 1
train | Q --keep_checkpoints=0 | keep_checkpoints must be between 1
train | Q --checkpoint_minutes=-1 | checkpoint_minutes must be between 0
train | Q --seed=-1 | seed must be between 0 and 2147483647; received -1
train | Q --run_dir= --resume | resume needs run_dir; received none
train | Q --run_dir=text.txt | run_dir must be a directory; received text.txt
train | Q --run_dir=text.txt/run | where {tmp}/text.txt is a file
train | Q --run_dir=other | run_dir must be new, empty or a run of tfadv; received other
train | Q --colour=red | Unknown command line flag 'colour'
train | Q run | arguments must be flags (--name=value); received 'run'
train | Q -- --seed=1 | arguments must be flags (--name=value); received '--seed=1'
evaluate | --num_steps=0 --run_dir=x | num_steps must be between 1
evaluate | --domain=dirty --run_dir=x | domain must be one of adv, clean, both; received 'dirty'
evaluate | --limit=0 --run_dir=x | limit must be between 1
evaluate | --epsilon=-1 --run_dir=x | epsilon must be between 0 and 255
evaluate | --sanity_checks=no_thanks --run_dir=x | Non-boolean argument
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
inspect | --domain=both --run_dir=x | domain must be one of adv, clean; received 'both'
inspect | --figure6=7 --run_dir=x | Non-boolean argument
predict | --run_dir=x | directory must be given, behind the flags; received none
predict | --run_dir=x a b | one directory must be given; received a b
predict | --model=text.txt --batch_size=0 other | batch_size must be between 1
predict | --model=text.txt --class_names other | class_names needs run_dir, or dataset with model
predict | --model=text.txt --output=other other | output must be a file; other is a directory
predict | --model=text.txt nowhere | the images must be in a directory; received 'nowhere'
predict | --model=text.txt empty | the directory must hold images; 'empty' holds no file
plan | --device=v1000 | device must be here or one of v100, a100, h100
plan | --device=v100 --dtype=mixed_bfloat16 | dtype of device v100 must be one of
plan | --device=here --efficiency=0.5 | efficiency must not be given with device=here
plan | --efficiency=2 | efficiency must be between 1e-06 and 1; received 2
plan | --workers=0 | workers must be between 1 and 1000000; received 0
plan | --workers=7 | batch_size must be a multiple of images_per_worker=32 times 7 workers
plan | --bandwidth=0 | bandwidth must be between 1e-06
plan | --latency=-1 | latency must be between 0
plan | --jitter=2 | jitter must be between 0 and 1; received 2.0
plan | --dataset=image_folder | data_dir must be given for image_folder
plan | --dataset=image_folder --data_dir=other | other/train is not there
plan | --dataset=imagenet | the data set must be one of digits, mnist
plan | --run_dir=nowhere | run_dir must hold a run of tfadv.train; received nowhere
plan | Q --depth=9 | depth of small_resnet must be 6n + 2
plan | Q run | arguments must be flags (--name=value); received 'run'
report |  | directories must be given, behind the flags; received none
report | nowhere | directories must hold runs of tfadv.train that were evaluated; nowhere: no run
report | --output=text.txt other | output must be a directory; received text.txt
report | --output= other | output must be text in one line, with no blanks around it; received ''
""".strip().splitlines()

# Texts of a flagfile for tfadv.train, and words of the message.
FLAGFILES = [
    (b"epochs=3\n", "flagfile {tmp}/x.flags, line 1: must be a flag or a comment"),
    (b"# fine\n\n--epochs=3\n--\n", "line 4: must be a flag or a comment; received '--'"),
    (b"--flagfile=x.flags\n", "flagfile must not include itself; received {tmp}/x.flags"),
    (b"--flagfile=y.flags\n", "flagfile must be a file; received 'y.flags'"),
    (b"--flagfile=other\n", "flagfile must be a file; received 'other'"),
    (b"--flagfile y.flags\n", "line 1: --flagfile needs '=' here"),
    (b"--flagfile=~nobody/y.flags\n", "flagfile must be a file; received '~nobody/y.flags'"),
    (b"\xff\xfe-\x00-\x00", "flagfile must be text in UTF-8; {tmp}/x.flags: "),
    (b"\x89PNG\r\n\x1a\n\x00\x00", "flagfile must be text in UTF-8"),
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


def test_every_number_has_two_finite_bounds():
    for program in ("TRAIN", "EVALUATE", "INSPECT", "PREDICT", "PLAN"):
        for flag in getattr(flag_table, program):
            if flag.kind in (int, float, [int]):
                assert math.isfinite(flag.low) and math.isfinite(flag.high), flag.name
