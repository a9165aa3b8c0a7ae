"""Every example in the documentation and in the docstrings runs as it is written.

An example may use the names that `prepared` below defines. Readers copy the text of an example, so
it is not shortened for the test: the data and networks under these names are small, and Keras
limits the number of epochs. An example with lines marked `# optional` also runs without them.
"""

import ast
import pathlib
import re

import keras
import numpy as np
import pytest

import tfadv

# Warnings that so few epochs cause.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Limiting epochs to 3"),
    pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch"),
]
ROOT = pathlib.Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(text):
    """The examples in a text, without their indentation."""
    for indent, code in _BLOCK.findall(text):
        lines = code.splitlines()
        yield "\n".join(line.removeprefix(indent) for line in lines) + "\n"


def examples():
    """Yields (place of the example, code)."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("flags/*.md")]):
        for number, code in enumerate(blocks(path.read_text(encoding="utf-8")), 1):
            yield f"{path.relative_to(ROOT)} {number}", code
    for path in sorted(ROOT.glob("tfadv/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for code in blocks(ast.get_docstring(node) or ""):
                    name = getattr(node, "name", "module")
                    yield f"{path.relative_to(ROOT)} {name}", code


def without_optional_lines(code):
    return "".join(line for line in code.splitlines(True) if "# optional" not in line)


ALL = dict(examples())
ALL |= {
    f"{name} without optional lines": without_optional_lines(code)
    for name, code in ALL.items()
    if "# optional" in code
}


def small_network(weights=None, classes=10, input_shape=(64, 64, 3), activation="softmax"):
    """Replaces a network of `keras.applications`: takes images in 0..255, returns probabilities."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=4)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation)(x))


def prepared():
    """Returns the names that examples may use without defining them."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8, 64, 64, 3)).astype("float32")
    labels = np.arange(8) % 10
    inputs = keras.Input((64, 64, 3))
    outputs = small_network(activation=None)(tfadv.layers.InputContract()(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return {
        "keras": keras,
        "np": np,
        "tfadv": tfadv,
        "model": model,
        "attack": tfadv.attacks.PGD(epsilon=8, step_size=2, num_steps=3),
        "images": images,
        "labels": labels,
        "test_images": images[::-1],
        "test_labels": labels[::-1],
    }


@pytest.fixture
def shortened(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    keras.config.set_max_epochs(3)
    yield
    keras.config.set_max_epochs(None)


def test_examples_are_found():
    assert {"README.md 1", "README.md 1 without optional lines"} <= set(ALL)
    assert "tfadv/callbacks/robust_evaluation.py RobustEvaluation" in ALL
    assert not any("```" in code for code in ALL.values())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.usefixtures("shortened")
def test_runs(name, monkeypatch):
    monkeypatch.setattr(keras.applications, "ResNet50", small_network)
    exec(compile(ALL[name], name, "exec"), prepared())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, code in ALL.items() if "applications" in code])
@pytest.mark.usefixtures("shortened")
def test_runs_with_the_networks_that_it_names(name):
    exec(compile(ALL[name], name, "exec"), prepared())
