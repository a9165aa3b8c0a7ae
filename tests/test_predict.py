"""`tfadv.predict` on image files, and on files that are not images."""

import csv
import io
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import tfadv
from tfadv.programs import predict as predict_program


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A directory with a mixture network, 5 images and 2 other files; expected probabilities."""
    root = tmp_path_factory.mktemp("predict")
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=8, channels=1, width=4, seed=1)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "clean/moving" in variable.path or variable.path.endswith("gamma"):
            variable.assign(generator.uniform(0.5, 2, variable.shape))
        elif "logits" in variable.path:
            variable.assign(generator.normal(size=variable.shape))
    model.save(root / "model.keras")
    images = generator.integers(0, 256, [5, 8, 8, 1], dtype=np.uint8)
    (root / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(root / "images" / f"a, {number}.png")
    (root / "images" / "b.txt").write_text("no image")
    (root / "images" / "c.jpeg").write_bytes(b"\xff\xd8\xff no image")
    right = {}
    for domain in ("adv", "clean"):
        logits = tfadv.models.call(model, images.astype(np.float32), domain=domain).numpy()
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        right[domain] = powers / powers.sum(axis=1, keepdims=True)
    return root, right


def lines(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("domain", ["adv", "clean"])
def test_labels_names_and_probabilities(case, domain, capsys):
    root, right = case
    flags = [f"--model={root}/model.keras", f"--domain={domain}", "--batch_size=2"]
    more = ["--class_names", "--probability", "--dataset=digits"]
    settings, path = predict_program.parse([*flags, *more, str(root / "images")])
    assert predict_program.prepare(settings, path).run() == 2
    printed = capsys.readouterr()
    written = lines(printed.out)
    labels = right[domain].argmax(axis=1)
    assert [row[:3] for row in written] == [
        [f"a, {number}.png", str(label), str(label)] for number, label in enumerate(labels)
    ]
    expected = right[domain].max(axis=1)
    np.testing.assert_allclose([float(row[3]) for row in written], expected, atol=2e-6)
    assert printed.err.splitlines() == [
        "tfadv.predict: skipped a file that cannot be read as an image: b.txt",
        "tfadv.predict: skipped a file that cannot be read as an image: c.jpeg",
        "tfadv.predict: 2 of 7 files could not be read",
    ]
    assert set(right["adv"].argmax(1)) != {0}


def test_the_program_writes_lines_and_reports_unreadable_files(case):
    root, right = case
    process = subprocess.run(
        [
            *[sys.executable, "-m", "tfadv.predict", f"--model={root}/model.keras"],
            *[str(root / "images"), f"--output={root}/labels.csv"],
        ],
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert "2 of 7 files could not be read" in process.stderr
    labels = right["adv"].argmax(axis=1)
    text = "".join(f'"a, {number}.png",{label}\n' for number, label in enumerate(labels))
    assert (root / "labels.csv").read_text() == text
    assert not list(root.glob("*.tmp"))


def predicted(root, capsys, *flags):
    """The lines of `tfadv.predict`, and what it says besides about unreadable files."""
    given = [f"--model={root}/model.keras", *flags, str(root / "images")]
    predict_program.prepare(*predict_program.parse(given)).run()
    printed = capsys.readouterr()
    return lines(printed.out), [line for line in printed.err.splitlines() if "names" in line]


def test_names_are_written_where_they_are_known(case, tmp_path, capsys):
    root, right = case
    labels = right["adv"].argmax(axis=1)
    for split in ("train", "val"):
        for number in range(10):
            (tmp_path / split / f"kind-{number}").mkdir(parents=True)
            (tmp_path / split / f"kind-{number}" / "x.png").touch()
    numbers = [[f"a, {i}.png", str(label)] for i, label in enumerate(labels)]
    names = [[*row, f"kind-{row[1]}"] for row in numbers]
    folder = ["--dataset=image_folder", f"--data_dir={tmp_path}"]
    assert predicted(root, capsys, *folder) == (names, [])
    assert predicted(root, capsys, *folder, "--class_names") == (names, [])
    assert predicted(root, capsys, *folder, "--class_names=false") == (numbers, [])
    [first, *_], _ = predicted(root, capsys, *folder, "--probability")
    assert first[:3] == names[0] and 0 < float(first[3]) < 1
    # Digits are called by their numbers, and the names of a data set that is elsewhere are unknown.
    assert predicted(root, capsys, "--dataset=digits") == (numbers, [])
    written, said = predicted(root, capsys, "--dataset=cifar10", f"--data_dir={tmp_path}")
    assert written == numbers
    [line] = said
    assert line.startswith("tfadv.predict: the names of the classes are left out: cifar10 is not")


def test_a_network_that_ends_in_a_sigmoid(case, tmp_path, capsys):
    """Each class has its own probability; where several are exactly 1, the logits decide."""
    root, _ = case
    inputs = keras.Input((8, 8, 1))
    logits = tfadv.models.SmallResNet(8, image_size=8, channels=1, width=4, seed=2)(inputs)
    dense = keras.layers.Dense(10, activation="sigmoid", bias_initializer="ones")
    model = keras.Model(inputs, dense(logits))
    kernel = np.random.default_rng(3).normal(size=(1000, 10)) / 5
    for factor in (1, 1e4):
        dense.set_weights([kernel[: logits.shape[-1]] * factor, np.ones(10) * factor])
        model.save(tmp_path / "model.keras")
        flags = [f"--model={tmp_path}/model.keras", "--probability", str(root / "images")]
        settings, path = predict_program.parse(flags)
        predict_program.prepare(settings, path).run()
        written = lines(capsys.readouterr().out)
        if factor == 1:
            labels = [row[1] for row in written]
            probabilities = [float(row[2]) for row in written]
            images = np.stack(
                [
                    np.asarray(Image.open(root / "images" / row[0]), "float32")[..., None]
                    for row in written
                ]
            )
            np.testing.assert_allclose(probabilities, np.max(model(images), axis=1), atol=2e-6)
            assert labels == [str(label) for label in np.argmax(model(images), axis=1)]
        assert [row[1] for row in written] == labels


def test_a_network_of_one_unit_is_refused(case, tmp_path):
    root, _ = case
    inputs = keras.Input((8, 8, 1))
    unit = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, unit).save(tmp_path / "model.keras")
    flags = [f"--model={tmp_path}/model.keras", "--value_range=0,255", str(root / "images")]
    with pytest.raises(ValueError, match="^model must have an output for each of at least two"):
        predict_program.prepare(*predict_program.parse(flags))
