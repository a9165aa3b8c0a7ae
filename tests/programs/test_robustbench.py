"""RobustBench's way to evaluate on ImageNet: its list of images, its resizing, its model claims."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.data import miniature_imagenet
from tfadv import data, layers
from tfadv.attacks import APGD, autoattack
from tfadv.data import imagenet_preprocessing
from tfadv.evaluation import Result
from tfadv.programs import evaluate as program

NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (7, 2, 5)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a miniature of ImageNet, and the labels of its validation images."""
    root = tmp_path_factory.mktemp("imagenet")
    _, labels = miniature_imagenet.prepare(root, num_train_per_class=1, num_classes=2)
    return root, labels


@pytest.mark.parametrize("size, batch", [(1, 2), (4, 1)])
def test_the_named_images_alone_are_read_each_once(prepared, size, batch):
    root, labels = prepared
    # As in RobustBench's list, with the folder of the class.
    names = [f"n01440764/{name}" for name in NAMES]
    dataset = data.load("imagenet2012", root, 16, validation_names=names)
    everything = data.load("imagenet2012", root, 16)
    assert (dataset.num_validation, everything.num_validation) == (3, 7)
    seen = {}
    for rank in range(size):
        for images, its_labels, indices in dataset.validation_batches(batch, rank, size):
            for image, label, index in zip(images, its_labels, indices.numpy(), strict=True):
                if index >= 0:
                    assert index not in seen
                    seen[index] = image.numpy(), int(label)
    assert sorted(seen) == [0, 1, 2]
    assert sorted(label for _, label in seen.values()) == sorted(labels[name] for name in NAMES)
    [(images, _, _)] = everything.validation_batches(7)
    whole = {image.numpy().tobytes() for image in images}
    assert all(image.tobytes() in whole for image, _ in seen.values())


def test_wrong_names(prepared):
    root, _ = prepared
    for names, problem in (
        ([NAMES[0], "x.JPEG"], "1 of 2 are none, such as 'x.JPEG'"),
        ([NAMES[0], f"a/{NAMES[0]}"], f"received '{NAMES[0]}' twice"),
        ([], "at least one name; received none"),
    ):
        with pytest.raises(ValueError, match=f"^validation_names must be .*{problem}"):
            data.load("imagenet2012", root, 16, validation_names=names)
    with pytest.raises(ValueError, match="^validation_resize must be one of 'bicubic', 'bilinear'"):
        data.load("imagenet2012", root, 16, validation_resize="nearest")


def test_bilinear_resizing_is_that_of_pillow():
    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 61, 3)).astype("uint8")
    # 61 pixels become 36 of a crop of 32: an image is made smaller, through a low-pass filter.
    edge = round(32 * 256 / 224)
    assert edge == 37
    # torchvision cuts off the longer side's fraction, and rounds the corner of the crop.
    resized = Image.fromarray(image).resize((37, int(90 * 37 / 61)), Image.Resampling.BILINEAR)
    pixels, top, left = np.asarray(resized, int), round((54 - 32) / 2), round((37 - 32) / 2)
    expected = pixels[top : top + 32, left : left + 32]
    result = imagenet_preprocessing.validation_image(tf.constant(image), 32, "bilinear").numpy()
    assert np.abs(result.astype(int) - expected).max() <= 1  # Pillow rounds twice
    pipeline = imagenet_preprocessing.validation_image(tf.constant(image), 32).numpy()
    assert np.abs(pipeline.astype(int) - expected).max() > 30


@pytest.fixture
def model(tmp_path):
    """A linear network, in a file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(layers.InputContract()(inputs))
    keras.Model(inputs, keras.layers.Dense(1000)(x)).save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def test_the_flagfile_evaluates_and_writes_a_model_claim(
    prepared, model, tmp_path, monkeypatch, capsys
):
    parts = (lambda **shared: APGD(num_steps=2, **shared),)
    monkeypatch.setitem(autoattack._VERSIONS, "standard", parts)
    (tmp_path / "names.txt").write_text("".join(f"n01440764/{name}\n" for name in NAMES))
    given = [
        "--flagfile=flags/eval/robustbench_imagenet.flags",
        f"--image_names={tmp_path / 'names.txt'}",
        *(f"--model={model}", f"--data_dir={prepared[0]}", "--image_size=16"),
        *(f"--output={tmp_path / 'out.json'}", "--images_per_worker=2"),
        "--sanity_checks=false",
    ]
    settings, path = program.parse(given)
    assert (settings.attack, settings.epsilon, settings.attack_norm) == ("autoattack", 4, "linf")
    program.prepare(settings, path).run()
    document = json.loads((tmp_path / "out.json").read_text())
    assert [result["total"] for result in document["results"]] == [3, 3]
    assert not document["whole_validation_set"] and document["validation_resize"] == "bilinear"
    claim = json.loads((tmp_path / "out.robustbench.json").read_text())
    clean, attacked = (100 * result["accuracy"] for result in document["results"])
    assert (claim["clean_acc"], claim["autoattack_acc"]) == (f"{clean:.2f}", f"{attacked:.2f}")
    assert (claim["dataset"], claim["eps"]) == ("imagenet", "4/255")
    assert "out.robustbench.json; fill in what is empty" in capsys.readouterr().out


def test_a_model_claim_has_the_fields_of_robustbench():
    clean, attacked = (
        Result(domain=None, num_steps=steps, correct=correct, total=5000, epsilon=4.0)
        for steps, correct in ((0, 3795), (None, 2807))
    )
    # The fields and the form of its file of a model with these accuracies.
    assert program.model_claim([clean, attacked], []) == {
        "link": "", "name": "", "authors": "", "additional_data": None, "number_forward_passes": 1,
        "dataset": "imagenet", "venue": "", "architecture": "", "eps": "4/255",
        "clean_acc": "75.90", "reported": "56.14", "autoattack_acc": "56.14", "unreliable": False,
    }  # fmt: skip
    assert program.model_claim([clean, attacked], ["a doubt"])["unreliable"]


def test_what_does_not_fit_is_refused(model, tmp_path):
    given = [f"--model={model}", "--dataset=digits"]
    for flag, problem in (
        ("--image_names=x", "image_names needs dataset=imagenet2012; received dataset=digits"),
        ("--validation_resize=bilinear", "validation_resize needs dataset=imagenet2012; received"),
    ):
        with pytest.raises(ValueError, match=f"^{problem}"):
            program.parse([*given, flag])
