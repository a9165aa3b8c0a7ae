"""Every file in `examples/` runs with `--quick`, as a user would start it."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import tfadv

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(folder, name, *arguments, launcher=()):
    """Runs an example in a folder and returns what it prints."""
    process = subprocess.run(
        [*launcher, sys.executable, EXAMPLES / name, *arguments, "--quick"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


def accuracies(table):
    """Reads `tfadv.evaluation.table`: the accuracy of each row in percent, in its first column."""
    return {name: float(value) for name, value in re.findall(r"^(\S+) +(\d+\.\d) \[", table, re.M)}


def test_every_example_is_tested():
    text = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in text for path in EXAMPLES.iterdir() if path.is_file())


def test_cifar10(tmp_path):
    printed = run(tmp_path, "cifar10.py")
    assert "val_pgd20_accuracy" in printed
    assert keras.saving.load_model(tmp_path / "robust.keras").output_shape == (None, 10)


@pytest.mark.slow
def test_evaluate_model(tmp_path):
    run(tmp_path, "cifar10.py")
    printed = run(tmp_path, "evaluate_model.py", "robust.keras")
    rows = accuracies(printed)
    assert list(rows) == ["clean", "PGD-10", "PGD-20"]
    assert rows["clean"] > 80 and rows["clean"] > rows["PGD-10"] > rows["PGD-20"] > 10
    assert "doubt" in printed.lower()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_custom_loop(workers, tmp_path):
    launcher = ()
    if workers > 1:
        if importlib.util.find_spec("horovod") is None:
            pytest.skip("needs Horovod")
        program = pathlib.Path(sys.executable).parent / "horovodrun"
        launcher = (program, "-np", str(workers), "--gloo")
    printed = run(tmp_path, "custom_loop.py", launcher=launcher)
    printed = re.sub(r"^\[\d+\]<stdout>:", "", printed, flags=re.M)
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss (\S+)", printed, re.M)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert accuracies(printed)["clean"] > 60
    assert tfadv.models.mixtures(keras.saving.load_model(tmp_path / "robust.keras"))


@pytest.mark.slow
def test_finetune(tmp_path):
    printed = run(tmp_path, "finetune.py")
    assert "val_pgd3_accuracy_clean_branch" in printed
    for branch in ("robust", "clean"):
        model = keras.saving.load_model(tmp_path / f"{branch}.keras")
        layers = [*model.layers, *model.get_layer("mobilenet_0.25_32").layers]
        assert not any(type(layer).__module__.startswith("tfadv") for layer in layers)


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch):
    """The cells run in order, as plain Python; Jupyter is not installed for the tests."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "robust_digits.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # The results that readers see are those of one run from top to bottom.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    source = "\n".join("".join(cell["source"]) for cell in cells)
    assert source.count("quick = False") == 1
    variables = {}
    exec(source.replace("quick = False", "quick = True"), variables)
    assert {"adv", "clean"} == {result.domain for result in variables["results"]}
    assert keras.saving.load_model("robust_digits.keras").output_shape == (None, 10)
