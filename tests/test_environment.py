"""`tfadv.report_environment`, with any Horovod and without one."""

import importlib.util
import subprocess
import sys
import types

import keras
import pytest
import tensorflow as tf

import tfadv


@pytest.fixture(autouse=True)
def without_horovod(monkeypatch):
    # Tests of a single process must not find Horovod imported.
    monkeypatch.setitem(sys.modules, "horovod", None)


def test_the_report_names_versions_and_devices():
    report = tfadv.report_environment()
    assert len(report.splitlines()) <= 10
    lines = dict(line.split(":", 1) for line in report.splitlines())
    assert lines["TensorFlow"].strip().startswith(tf.__version__)
    assert lines["Keras"].strip().startswith(f"{keras.__version__}, tensorflow, float32")
    assert sys.version.split()[0] in lines["Python"]
    gpus = tf.config.list_physical_devices("GPU")
    assert (lines["GPUs"].strip() == "none") == (not gpus)


def test_only_variables_that_matter_are_shown(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "10.1.2.3")
    report = tfadv.report_environment()
    assert "TF_ENABLE_ONEDNN_OPTS=1" in report and "10.1.2.3" not in report


def test_horovod_need_not_be_there():
    assert tfadv.distributed.describe_horovod() == "not installed"
    assert "Horovod:    not installed" in tfadv.report_environment()


def test_a_horovod_that_cannot_be_imported_says_why(monkeypatch):
    package = types.ModuleType("horovod")
    package.__version__, package.__path__ = "0.28.1", []
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.delitem(sys.modules, "horovod.tensorflow", raising=False)
    assert tfadv.distributed.describe_horovod() == (
        "0.28.1, which cannot be imported (ModuleNotFoundError: No module named "
        "'horovod.tensorflow')"
    )


def test_the_horovod_of_the_tests_is_built_with_gloo(monkeypatch):
    monkeypatch.delitem(sys.modules, "horovod")
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("needs Horovod")
    command = "import tfadv; print(tfadv.distributed.describe_horovod())"
    process = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "built with gloo" in process.stdout
