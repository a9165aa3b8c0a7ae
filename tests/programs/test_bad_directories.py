"""Run directories, data directories and results that are refused: one line, status 2."""

import json
import os
import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds

from tests.data import miniature_imagenet
from tests.programs.refusals import refused
from tests.programs.test_bad_files import FINE, RESULT, RESULTS, directory, root  # noqa: F401

RUN = pathlib.Path("run")
FLAGS = RUN / "flags.txt"


def _add(text):
    with open(FLAGS, "a") as file:
        file.write(text)


def _replace(old, new):
    text = FLAGS.read_text()
    assert old in text
    FLAGS.write_text(text.replace(old, new))


def _make(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _move(path, target):
    path.rename(target)
    return target


RESUME = [*FINE, "--run_dir=run", "--resume"]
CHECKPOINT = RUN / "checkpoints" / "epoch-0001.keras"
# A change to the run, the command line, and words of the message.
RUNS = {
    "not resumed": (None, ["train", *FINE, "--run_dir=run"], "run_dir must be new, or --resume"),
    "another run": (None, ["train", *RESUME, "--epsilon=8"], "epsilon must be 80.0 to continue"),
    "flags of another program": (
        lambda: _add("--frobnicate=1\n"),
        ["train", *RESUME],
        "Unknown command line flag 'frobnicate'",
    ),
    "flags out of their bounds": (
        lambda: _replace("--epsilon=80.0", "--epsilon=800"),
        ["evaluate", "--run_dir=run"],
        "epsilon must be between 0 and 255",
    ),
    "flags that are no text": (
        lambda: FLAGS.write_bytes(b"\x00\xff\xfe"),
        ["inspect", "--run_dir=run"],
        "flagfile must be text in UTF-8",
    ),
    "flags in a directory": (
        lambda: (FLAGS.unlink(), FLAGS.mkdir()),
        ["predict", "--run_dir=run", "images"],
        "run_dir must hold a run of tfadv.train; received run",
    ),
    "flags of a data set that is gone": (
        lambda: _replace("--dataset=digits", "--dataset=mnist"),
        ["evaluate", "--run_dir=run"],
        "mnist is not prepared in",
    ),
    "no model yet": (
        None,
        ["evaluate", "--run_dir=without_model"],
        "last, best or an epoch that without_model keeps (none); received 'last'",
    ),
    "no best": (None, ["predict", "--run_dir=run", "--checkpoint=best", "images"], "last, best or"),
    "no such epoch": (None, ["inspect", "--run_dir=run", "--checkpoint=7"], "received '7'"),
    "digits of no number": (None, ["evaluate", "--run_dir=run", "--checkpoint=²"], "received '²'"),
    "no checkpoint": (None, ["predict", "--run_dir=run", "--checkpoint=", "images"], "checkpoint"),
    "path for a checkpoint": (
        None,
        ["evaluate", "--run_dir=run", "--checkpoint=../../x"],
        "received '../../x'",
    ),
    "checkpoints in a file": (
        lambda: (os.rmdir("run/checkpoints"), _make(RUN / "checkpoints")),
        ["evaluate", "--run_dir=run", "--checkpoint=3"],
        "an epoch that run keeps (none)",
    ),
    "checkpoints that are broken": (
        lambda: _make(CHECKPOINT, b"PK"),
        ["train", *RESUME],
        "no checkpoint in run/checkpoints is whole",
    ),
    "checkpoint of another program": (
        lambda: shutil.copy("ok.keras", CHECKPOINT),
        ["train", *RESUME],
        "no checkpoint in run/checkpoints is whole",
    ),
    "model in a directory": (
        lambda: ((RUN / "model.keras").unlink(), (RUN / "model.keras").mkdir()),
        ["evaluate", "--run_dir=run"],
        "received 'last'",
    ),
    "model that is cut off": (
        lambda: (RUN / "model.keras").write_bytes((RUN / "model.keras").read_bytes()[:500]),
        ["evaluate", "--run_dir=run"],
        "model must be a Keras file that loads; run/model.keras: BadZipFile",
    ),
    "run in a file": (lambda: _make(pathlib.Path("x")), ["evaluate", "--run_dir=x"], "must hold a"),
    "the run itself": (
        None,
        ["train", *FINE, "--run_dir=run", "--init_from=run"],
        "init_from must be another run than run_dir",
    ),
}

TRAIN = pathlib.Path("folder/train")
FOLDER = "train --dataset=image_folder --data_dir=folder --depth=8 --blocks=1,1 --image_size=32"
FOLDER = [*FOLDER.split(), "--batch_size=2", "--images_per_worker=2", "--run_dir=new"]
# A change to the folder, and words of the message.
FOLDERS = {
    "no val": (lambda: shutil.rmtree("folder/val"), "folder/val is not there"),
    "train in a file": (lambda: (shutil.rmtree(TRAIN), _make(TRAIN)), "folder/train is not there"),
    "no classes": (lambda: [shutil.rmtree(p) for p in TRAIN.iterdir()], "folder/train holds none"),
    "class of one alone": (lambda: _move(TRAIN / "bee", TRAIN / "cat"), "'bee' is in val and not"),
    "folder of a tool": (lambda: (TRAIN / "__MACOSX").mkdir(), "remove folder/train/__MACOSX"),
    "class without validation images": (
        lambda: [p.unlink() for p in pathlib.Path("folder/val/bee").iterdir()],
        "folder/val/bee holds none",
    ),
    "no images": (
        lambda: [_move(p, p.with_suffix(".txt")) for p in TRAIN.glob("*/*")],
        "folder/train holds none",
    ),
    "images of another format": (
        lambda: _make(TRAIN / "ant" / "b.TIFF"),
        "data_dir must hold images as .jpeg, .jpg, .png, .gif, .bmp, .webp; received folder/train",
    ),
    "link to nothing": (
        lambda: (TRAIN / "bee" / "b.png").symlink_to("nowhere"),
        "folder/train/bee/b.png is one",
    ),
    "link in a circle": (
        lambda: (TRAIN / "bee" / "b.png").symlink_to("b.png"),
        "folder/train/bee/b.png is one",
    ),
    "pipe": (lambda: os.mkfifo(TRAIN / "bee" / "b.png"), "folder/train/bee/b.png is none"),
    "link to a device": (
        lambda: (TRAIN / "bee" / "b.png").symlink_to("/dev/zero"),
        "folder/train/bee/b.png is none",
    ),
}

# A change to a results file of tfadv.evaluate, and words of the message.
DOCUMENTS = {
    "cut off": (lambda text: text[:99], "Expecting"),
    "no text": (lambda text: b"\xff\xfe\x00", "codec can't decode"),
    "nested without end": (lambda text: "[" * 200_000, "it is nested too deeply"),
    "no results": (lambda text: json.dumps({**RESULTS, "results": []}), "IndexError"),
    "results of another kind": (lambda text: json.dumps({**RESULTS, "results": "x"}), "TypeError"),
    "no data set": (lambda text: json.dumps({**RESULTS, "dataset": None}), "dataset=None"),
    "list for a name": (lambda text: json.dumps({**RESULTS, "dataset": ["x"]}), "dataset=['x']"),
    "no shape": (lambda text: json.dumps({**RESULTS, "image_shape": 8}), "TypeError"),
    "text for a number": (lambda text: text.replace("30", '"30"'), "correct='30'"),
    "more right than there are": (lambda text: text.replace("30", "51"), "correct=51 of total=50"),
    "fewer than none": (lambda text: text.replace("30", "-1"), "correct=-1 of total=50"),
    "no number": (lambda text: text.replace("1.6", "NaN"), "step_size=nan"),
    "infinite": (lambda text: text.replace("16.0", "Infinity"), "epsilon=inf"),
    "beyond floats": (lambda text: text.replace("16.0", "1e999"), "epsilon=inf"),
    "steps below none": (lambda text: text.replace('s": 10', 's": -10'), "-10 steps"),
    "list for a precision": (lambda text: text.replace('"seed": 0', '"precision": [3]'), "[3]"),
    "no seed": (lambda text: text.replace('"seed": 0', '"seed": null'), "seed=None"),
    "truth for a number": (lambda text: text.replace('"hits": 9', '"hits": true'), "hits=True"),
    "more steps than a table holds": (
        lambda text: text.replace('s": 10', f's": {10**30}'),
        f"{10**30} steps, 50 images",
    ),
    "another branch": (lambda text: text.replace('"adv"', '"both"'), "'both'"),
    "of no branch": (lambda text: text.replace('"adv"', "null"), "PGD-10 is of no branch, of norm"),
    "doubts of another kind": (
        lambda text: json.dumps({**RESULTS, "doubts": [1]}),
        "not a results file of tfadv.evaluate (TypeError",
    ),
    "model of another kind": (lambda text: json.dumps({**RESULTS, "model": 3}), "TypeError"),
    "nothing at all": (None, "run: not evaluated yet"),
}


@pytest.mark.parametrize("case", RUNS)
def test_bad_run_directories(case, directory, capsys):  # noqa: F811
    change, (program, *flags), words = RUNS[case]
    if change is not None:
        change()
    if program == "train":
        (RUN / ".lock").touch()  # as a run has one
    capsys.readouterr()
    assert words in refused(program, flags, capsys)


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_image_folders(case, directory, capsys):  # noqa: F811
    change, words = FOLDERS[case]
    change()
    assert words in refused(FOLDER[0], FOLDER[1:], capsys)


@pytest.mark.parametrize("case", DOCUMENTS)
def test_bad_results(case, directory, capsys):  # noqa: F811
    change, words = DOCUMENTS[case]
    if change is not None:
        text = change(json.dumps({**RESULTS, "results": [RESULT]}))
        path = RUN / "evaluation.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused("report", ["run"], capsys)
    assert words in line and ("evaluation.json" in line or change is None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds.disable_progress_bar()
    path = tmp_path_factory.mktemp("prepared")
    miniature_imagenet.prepare(path, num_train_per_class=1, num_classes=2, num_validation=1)
    shutil.rmtree(path / "archives")
    return path


PREPARED = {
    "no description": ("dataset_info.json", None, "imagenet2012 is not prepared in data"),
    "empty description": ("dataset_info.json", b"", "dataset_info.json must describe imagenet2012"),
    "list": ("dataset_info.json", b"[]", "must describe imagenet2012 (AttributeError"),
    "no splits": ("dataset_info.json", b"{}", "has no split 'train'; remove it and run"),
    "features of no kind": ("features.json", b"{}", "cannot be read ("),
    "no features": ("features.json", None, "cannot be read ("),
    "a file is missing": ("imagenet2012-train.tfrecord-00000-of-00001", None, "lacks its file"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_bad_prepared_data(case, prepared, directory, capsys):  # noqa: F811
    name, content, words = PREPARED[case]
    shutil.copytree(prepared, "data")
    (path,) = pathlib.Path("data").glob(f"imagenet2012/*/{name}")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    flags = ["--model=ok.keras", "--dataset=imagenet2012", "--data_dir=data"]
    assert words in refused("evaluate", flags, capsys)
