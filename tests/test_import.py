"""`import tfadv`, and what programs must not import before they have checked their flags."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from contextlib import nullcontext

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def python(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_a_program_reads_the_tables_without_tensorflow():
    """`python -m tfadv.train` does so to check its flags; -X importtime names every import."""
    tables = [f"tfadv.tables.{path.stem}" for path in (ROOT / "tfadv" / "tables").glob("[a-z]*.py")]
    program = f"import sys; sys.argv[0] = 'tfadv-train'; import {', '.join(tables)}"
    process = python("-X", "importtime", "-c", program)
    assert process.returncode == 0, process.stderr
    names = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert {"tfadv", *tables} <= names
    heavy = "tensorflow keras numpy horovod tensorflow_datasets matplotlib pandas"
    assert not names & set(heavy.split())


def test_a_script_of_a_users_own_imports_the_library_whatever_its_name():
    check = "import sys; sys.argv[0] = sys.argv[1]; import tfadv; print('keras' in sys.modules)"
    assert python("-c", check, "/usr/bin/tfadv-train").stdout.strip() == "False"
    process = python("-c", check, "/home/me/tfadv-experiment.py", "tfadv.train")
    assert process.stdout.strip() == "True", process.stderr


NUMBER = "epsilon must be between 0 and 255 (pixels of 255); received -1.0"
UNKNOWN = "Unknown command line flag 'epsilon'"


@pytest.mark.parametrize(
    "path, message",
    [
        ("tfadv/train.py", NUMBER),
        ("tfadv/evaluate.py", NUMBER),
        ("tfadv/inspect.py", NUMBER),
        ("tfadv/plan.py", NUMBER),
        ("tfadv/predict.py", UNKNOWN),
        ("tfadv/report.py", UNKNOWN),
        ("inspect.py", NUMBER),  # in tfadv/, and with the name of a standard module
    ],
)
def test_a_program_can_be_started_by_its_path(path, message):
    folder = ROOT if "/" in path else ROOT / "tfadv"
    process = python(path, "--epsilon=-1", cwd=folder)
    assert (process.returncode, process.stdout) == (2, "")
    program = pathlib.Path(path).stem
    assert (
        process.stderr.startswith(f"tfadv.{program}: {message}") and process.stderr.count("\n") == 1
    )


def test_import_registers_what_a_saved_model_needs(tmp_path):
    import keras
    import numpy as np

    from tfadv import layers, models

    inputs = keras.Input((2, 2, 3))
    x = layers.MixtureBatchNormalization()(layers.InputContract()(inputs))
    x = layers.BatchNormalization()(x)
    x = keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(x))
    model = models.logits(keras.Model(inputs, x))
    images = np.random.default_rng(0).uniform(0, 255, (3, 2, 2, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, keras, numpy, tfadv\n"
        "model = keras.models.load_model('model.keras')\n"
        "numpy.save('outputs.npy', model(numpy.load('images.npy')))\n"
    )
    process = python("-c", program, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert np.array_equal(np.load(tmp_path / "outputs.npy"), model(images))


def test_a_keras_that_trains_plainly_is_refused_in_one_line(tmp_path):
    """Whatever pip was told: with Keras up to 3.6 no adversarial step would run."""
    (tmp_path / "old.py").write_text("import keras; keras.__version__ = '3.6.0'; import tfadv")
    process = python(tmp_path / "old.py")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        "ImportError: tfadv needs Keras 3.10 or newer, since older ones train without the "
        "adversarial step or wrongly: pip install 'keras>=3.10'; received Keras 3.6.0"
    )


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.15.0", True), ("3.9.2", True), ("3.10.0", False), ("3.15.1", False), ("4.0.0", False)]
    + [("3.16.0.dev20261128", False), ("3.10.0rc0", False)],
)
def test_keras_from_3_10_is_accepted(version, old, monkeypatch):
    import keras

    from tfadv import startup

    monkeypatch.setattr(keras, "__version__", version)
    with pytest.raises(ImportError, match=f"received Keras {version}$") if old else nullcontext():
        startup.check_keras()


REFUSED = "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); received "


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_backend_that_is_not_installed_is_refused_in_one_line(backend):
    for module in ("torch", "jax"):  # Keras's NumPy backend needs JAX.
        if importlib.util.find_spec(module):
            pytest.skip(f"{module} is installed")
    process = python("-c", "import tfadv", KERAS_BACKEND=backend)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f"ImportError: {REFUSED}{backend!r}"
    assert "During handling" not in process.stderr


def test_another_backend_is_refused_in_one_line(monkeypatch):
    import keras

    from tfadv import startup

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=re.escape(f"{REFUSED}'jax'") + "$"):
        startup.check_keras()
