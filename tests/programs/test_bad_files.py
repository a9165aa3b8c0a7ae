"""Model files that are refused: one line, status 2, and no code that they hold is run."""

import json
import os
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

import tfadv
from tests.programs.refusals import refused
from tfadv.programs import flags
from tfadv.settings import TRAIN

FINE = ["--flagfile=flags/quickstart.flags", "--width=4", "--depth=8"]
RESULT = {
    "domain": "adv", "num_steps": 10, "correct": 30, "total": 50, "hits": 9, "epsilon": 16.0,
    "step_size": 1.6, "step_size_rule": "pipeline", "targeted": True, "loss": "cross_entropy",
    "start_from_clean": 0.0, "restarts": 1, "seed": 0,
}  # fmt: skip
RESULTS = {
    "model": "model.keras", "dataset": "digits", "image_shape": [8, 8, 1],
    "whole_validation_set": True, "results": [RESULT],
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory of good files, which each test turns into bad ones."""
    root = tmp_path_factory.mktemp("bad")
    network = tfadv.models.SmallResNet(8, norm="mbn", image_size=8, channels=1, width=4, seed=1)
    network.compile("sgd", loss="categorical_crossentropy")
    network.save(root / "ok.keras")
    settings = flags.parse(TRAIN, FINE)
    for name in ("run", "without_model"):
        (root / name / "checkpoints").mkdir(parents=True)
        (root / name / "flags.txt").write_text(flags.flagfile(TRAIN, settings))
    shutil.copy(root / "ok.keras", root / "run" / "model.keras")
    (root / "images").mkdir()
    Image.fromarray(np.full([8, 8], 7, np.uint8)).save(root / "images" / "a.png")
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            (root / "folder" / split / label).mkdir(parents=True)
            shutil.copy(root / "images" / "a.png", root / "folder" / split / label)
    return root


@pytest.fixture
def directory(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    return tmp_path


def head(*layers):
    """Saves a model of digits that ends in these layers."""
    inputs = keras.Input([8, 8, 1])
    outputs = keras.layers.Flatten()(inputs)
    for layer in layers:
        outputs = layer(outputs)
    keras.Model(inputs, outputs).save("bad.keras")


def members(change=None, **more):
    """Writes bad.keras: the members of ok.keras, its configuration changed, and further members."""
    with zipfile.ZipFile("ok.keras") as source, zipfile.ZipFile("bad.keras", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json" and change is not None:
                config = json.loads(content)
                content = json.dumps(change(config) or config)
            target.writestr(name, content)
        for name, content in more.items():
            target.writestr(name, content)


def names(module, name, kind="function"):
    """Makes the last layer's activation an object of another module."""

    def change(config):
        config["config"]["layers"][-1]["config"]["activation"] = {
            "module": module, "class_name": kind, "config": name, "registered_name": name,
        }  # fmt: skip

    return change


def layer(module, kind, **settings):
    """Replaces the last layer."""

    def change(config):
        config["config"]["layers"][-1].update(
            module=module, class_name=kind, registered_name=None, config=settings
        )

    return change


def _lambda():
    head(keras.layers.Lambda(lambda x: x), keras.layers.Dense(10))


def _two_outputs():
    inputs = keras.Input([8, 8, 1])
    flat = keras.layers.Flatten()(inputs)
    outputs = [keras.layers.Dense(10)(flat), keras.layers.Dense(2)(flat)]
    keras.Model(inputs, outputs).save("bad.keras")


def _truncated(share):
    content = pathlib.Path("ok.keras").read_bytes()
    pathlib.Path("bad.keras").write_bytes(content[: int(share * len(content))])


def _flipped():
    content = bytearray(pathlib.Path("ok.keras").read_bytes())
    content[len(content) // 2] ^= 1
    pathlib.Path("bad.keras").write_bytes(content)


def _without(member):
    with zipfile.ZipFile("ok.keras") as source, zipfile.ZipFile("bad.keras", "w") as target:
        for name in set(source.namelist()) - {member}:
            target.writestr(name, source.read(name))


def _write(path, content):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def _network(**options):
    options = {"norm": "mbn", "image_size": 8, "channels": 1, "width": 4, **options}
    tfadv.models.SmallResNet(8, **options).save("bad.keras")


NO_MODEL = "must be a Keras file that loads; bad.keras: "
# How bad.keras is written, and words of the message.
MODELS = {
    "empty": (lambda: _write("bad.keras", ""), NO_MODEL),
    "text": (lambda: _write("bad.keras", "model"), NO_MODEL),
    "pickle": (lambda: _write("bad.keras", b"\x80\x04cos\nsystem\n\x8c\x02ls\x85R."), NO_MODEL),
    "npy": (lambda: np.save("bad.keras.npy", np.zeros(3)), "model must be a .keras file"),
    "truncated": (lambda: _truncated(0.5), "BadZipFile"),
    "cut off at its end": (lambda: _truncated(0.999), "BadZipFile"),
    "a flipped bit": (_flipped, NO_MODEL),
    "another archive": (lambda: zipfile.ZipFile("bad.keras", "w").close(), NO_MODEL),
    "no weights": (lambda: _without("model.weights.h5"), NO_MODEL),
    "no configuration": (lambda: _without("config.json"), NO_MODEL),
    "configuration of no model": (lambda: members(lambda config: [1]), NO_MODEL),
    "configuration of null": (lambda: members(lambda config: {"a": None}), NO_MODEL),
    "a layer alone": (
        lambda: members(lambda c: keras.saving.serialize_keras_object(keras.layers.Dense(3))),
        "it holds a Dense, which is not a model",
    ),
    "path out of the archive": (lambda: members(**{"../../evil": "x"}), "a member '../../evil'"),
    "absolute path": (lambda: members(**{"/tmp/evil": "x"}), "it holds a member '/tmp/evil'"),
    "path out of the assets": (lambda: members(**{"assets/../../evil": "x"}), "it holds a member"),
    "lambda": (_lambda, "Requested the deserialization of a `Lambda` layer"),
    "saved model of elsewhere": (
        lambda: members(layer("keras.layers", "TFSMLayer", filepath="x", name="x")),
        "deserialization of a `TFSMLayer`",
    ),
    "os.system as activation": (lambda: members(names("os", "system")), NO_MODEL),
    "exec as activation": (lambda: members(names("builtins", "exec")), NO_MODEL),
    "download as activation": (lambda: members(names("keras.utils", "get_file")), NO_MODEL),
    "class of a module": (
        lambda: members(layer("subprocess", "Popen", args=["touch", "evil"])),
        NO_MODEL,
    ),
    "module of one's own": (lambda: members(layer("evil", "Layer", name="x")), NO_MODEL),
    "two outputs": (_two_outputs, "one input of images and one output of classes"),
    "no contract": (lambda: head(keras.layers.Dense(10)), "value_range must be given"),
}


@pytest.mark.parametrize("case", MODELS)
def test_bad_models(case, directory, capsys, monkeypatch):
    make, words = MODELS[case]
    make()
    # This module could be imported.
    _write("evil.py", "open('evil', 'w')\n")
    monkeypatch.syspath_prepend(str(directory))
    # The programs take turns, since all load through one function.
    program, flags = [
        ("evaluate", ["--dataset=digits"]),
        ("predict", ["images"]),
        ("inspect", ["--output=new", "--figure6=false"]),
    ][list(MODELS).index(case) % 3]
    assert words in refused(program, ["--model=bad.keras", *flags], capsys)
    assert not os.path.exists("evil")


def test_enabled_unsafe_deserialization_is_ignored(directory):
    import threading

    _lambda()
    raised = []

    def load():  # it is enabled for a thread
        keras.config.enable_unsafe_deserialization()
        keras.saving.load_model("bad.keras")
        try:
            tfadv.models.load("bad.keras")
        except ValueError as error:
            raised.append(str(error))
        assert keras.saving.load_model("bad.keras").count_params()  # as before

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert len(raised) == 1 and "Requested the deserialization of a `Lambda`" in raised[0]


# Options of models that load, command lines that they do not fit, and words of the message.
UNFIT = [
    ({"num_classes": 7}, "evaluate --dataset=digits", "7 classes, as the outputs of model"),
    ({"channels": 3}, "evaluate --dataset=digits", "shape (8, 8, 3), which model"),
    ({"image_size": 16}, "evaluate --dataset=digits", "shape (16, 16, 1), which model"),
    ({"image_size": 16}, "predict --image_size=8 images", "image_size must be that of the model"),
    ({"norm": "gn"}, "predict --domain=clean images", "domain=clean needs a model with mixture"),
    ({"norm": "gn"}, "inspect --output=new", "model must have batch normalization"),
    ({}, "evaluate --dataset=digits --value_range=0,1", "value_range must be (0.0, 255.0)"),
    ({}, "inspect --output=new --layer=conv9", "layer must be a mixture of model"),
    ({"num_classes": 7}, "predict --class_names --dataset=digits images", "the model's 7 classes"),
    ({}, "predict --class_names --dataset=synthetic images", "needs a data set that has them"),
]
INITIAL = [
    ({"num_classes": 7}, "logits/kernel (16, 7) there and logits/kernel (16, 10) here"),
    ({"channels": 3}, "kernel (3, 3, 3, 4) there and"),
    ({"width": 8}, "kernel (3, 3, 1, 8) there and"),
    ({"norm": "bn"}, "the first difference is"),
]


@pytest.mark.parametrize("options, line, words", UNFIT, ids=[line for _, line, _ in UNFIT])
def test_models_that_do_not_fit(options, line, words, directory, capsys):
    _network(**options)
    program, *flags = line.split()
    assert words in refused(program, ["--model=bad.keras", *flags], capsys)


@pytest.mark.parametrize("options, words", INITIAL, ids=[str(options) for options, _ in INITIAL])
def test_networks_that_a_training_cannot_start_from(options, words, directory, capsys):
    _network(**options)
    line = refused("train", [*FINE, "--init_from=bad.keras", "--run_dir=new"], capsys)
    assert words in line and "bad.keras" in line
