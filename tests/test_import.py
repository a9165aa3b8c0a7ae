"""What `import tfadv` does, and what the programs must not do before their flags are checked."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", ["tables.networks", "tables.datasets", "tables.normalizations"])
def test_a_program_reads_the_tables_without_tensorflow(module):
    """As `python -m tfadv.train` does to check its flags; -X importtime names every import."""
    done = python("-X", "importtime", "-m", f"tfadv.{module}")
    assert done.returncode == 0, done.stderr
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tfadv" in names  # it was read
    heavy = {
        "tensorflow",
        "keras",
        "numpy",
        "horovod",
        "tensorflow_datasets",
        "matplotlib",
        "pandas",
    }
    assert not names & heavy


def test_the_name_of_a_program():
    """Of `sys.argv` and `sys.orig_argv`, what makes an import a program's."""
    check = "import sys; sys.argv[0] = sys.argv[1]; import tfadv; print('keras' in sys.modules)"
    assert python("-c", check, "/usr/bin/tfadv-train").stdout.strip() == "False"
    # A user's own script registers the layers, whatever its name and its arguments.
    done = python("-c", check, "/home/me/tfadv-experiment.py", "tfadv.train")
    assert done.stdout.strip() == "True", done.stderr


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.parametrize(
    "program, message",
    [
        ("train", "epsilon must be between 0 and 255 (pixels of 255); received -1.0"),
        ("evaluate", "epsilon must be between 0 and 255 (pixels of 255); received -1.0"),
        ("inspect", "epsilon must be between 0 and 255 (pixels of 255); received -1.0"),
        ("plan", "epsilon must be between 0 and 255 (pixels of 255); received -1.0"),
        ("predict", "Unknown command line flag 'epsilon'"),
        ("report", "Unknown command line flag 'epsilon'"),
    ],
)
@pytest.mark.parametrize("folder", [ROOT, os.path.join(ROOT, "tfadv")])
def test_a_program_can_be_started_by_its_path(program, message, folder):
    """Though `tfadv/inspect.py` has the name of a module of the standard library."""
    path = os.path.relpath(os.path.join(ROOT, "tfadv", f"{program}.py"), folder)
    done = subprocess.run(
        [sys.executable, path, "--epsilon=-1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tfadv.{program}: {message}") and done.stderr.count("\n") == 1


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
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "outputs.npy"), model(images))


REFUSED = "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); received "


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_backend_that_is_not_installed_is_refused_in_one_line(backend):
    for module in ("torch", "jax"):  # Keras's NumPy backend needs JAX.
        if importlib.util.find_spec(module):
            pytest.skip(f"{module} is installed")
    done = python("-c", "import tfadv", KERAS_BACKEND=backend)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {REFUSED}{backend!r}"
    assert "During handling" not in done.stderr


def test_another_backend_is_refused_in_one_line(monkeypatch):
    import keras

    from tfadv import startup

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=re.escape(f"{REFUSED}'jax'") + "$"):
        startup.check_backend()


def test_unknown_names():
    import tfadv

    for package in (tfadv, tfadv.layers, tfadv.models):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
    assert "BatchNormalization" in dir(tfadv.layers)
