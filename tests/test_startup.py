"""XLA's cache on disk, which a program turns on for GPUs before TensorFlow is imported."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from tfadv import startup

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIRECTORY = "--tf_xla_persistent_cache_directory"


def kept(monkeypatch, gpu="NVIDIA H200", **variables):
    """TF_XLA_FLAGS after the start of a program; None if there are none."""
    for name in ("TF_XLA_FLAGS", "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"XDG_CACHE_HOME": "/caches", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(startup, "_gpu", lambda: gpu)
    monkeypatch.setattr(startup.importlib.metadata, "version", lambda name: "2.21.0")
    startup._keep_compilations()
    return os.environ.get("TF_XLA_FLAGS")


def test_compilations_for_gpus_are_kept_by_kind_and_flags(monkeypatch):
    plain = kept(monkeypatch)
    assert plain.startswith(f"{DIRECTORY}=/caches/tfadv/xla/2.21.0-NVIDIA-H200-")
    assert plain.endswith(" --tf_xla_persistent_cache_device_types=GPU")
    assert kept(monkeypatch) == plain
    directories = {kept(monkeypatch, gpu="V100"), kept(monkeypatch, XLA_FLAGS="--a"), plain}
    assert len(directories) == 3


def test_what_the_user_set_stays(monkeypatch):
    assert kept(monkeypatch, gpu=None) is None
    for flags in (f"{DIRECTORY}=", f"{DIRECTORY}=/mine --tf_xla_x=1", "/a/file/of/flags"):
        assert kept(monkeypatch, TF_XLA_FLAGS=flags) == flags
    both = kept(monkeypatch, TF_XLA_FLAGS="--tf_xla_x=1")
    assert both.startswith(f"--tf_xla_x=1 {DIRECTORY}=/caches/")
    # A space would end the flag.
    assert kept(monkeypatch, XDG_CACHE_HOME="/my caches") is None


def test_the_kind_of_gpu(tmp_path):
    devices, driver = tmp_path / "dev", tmp_path / "gpus"
    (driver / "0000:0f:00.0").mkdir(parents=True)
    devices.mkdir()
    (devices / "nvidiactl").touch()
    assert startup._gpu(devices, driver) is None
    (devices / "nvidia0").touch()
    assert startup._gpu(devices, driver) == startup.platform.node()
    (driver / "0000:0f:00.0" / "information").write_text("Model: \t NVIDIA H200\nIRQ: 1\n")
    assert startup._gpu(devices, driver) == "NVIDIA H200"


STEP = """
import sys
import tensorflow as tf
from tests.training import cases
from tfadv import attacks, callbacks

for _ in range(int(sys.argv[1])):  # as a training that restores a checkpoint does
    tf.identity(0.0)
model = cases.compiled(cases.normalized("mbn"))
attack = attacks.PGD(num_steps=2, jit_compile=True)
data = cases.images(4)
evaluation = callbacks.RobustEvaluation(data, attack, [1, 3], batch_size=4, value_range=(0, 1))
options = {"attack": attack, "jit_compile": True, "callbacks": [evaluation]}
logs = cases.train(model, *data, **options)
print(logs["loss"], logs["val_pgd3_accuracy"])
"""


@pytest.mark.slow
def test_a_start_that_does_more_before_its_first_step_compiles_nothing_again(
    tmp_path, tmp_path_factory
):
    dumps = tmp_path_factory.mktemp("dumps")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    variables["TF_XLA_FLAGS"] = f"{DIRECTORY}={tmp_path}"
    losses, files = [], []
    for more in ("0", "500"):
        variables["XLA_FLAGS"] = f"--xla_dump_to={dumps / more} --xla_dump_hlo_as_text"
        command = [sys.executable, "-c", STEP, more]
        process = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        losses.append(process.stdout)
        files.append(sorted(path.name for path in tmp_path.iterdir()))
    assert len(files[0]) == 2 and files[1] == files[0]  # the attack and the pass
    # Evaluations take the attack of the training, and do not even read it from the disk again.
    assert len(list((dumps / "0").glob("module_*.before_optimizations.txt"))) == 2
    assert losses[1] == losses[0]


def test_the_names_of_functions_repeat_where_xla_looks_for_them(monkeypatch):
    def number():
        startup.repeat_names()
        name = tf.function(lambda: 0, autograph=False).get_concrete_function().name
        return int(name.rpartition(b"_")[2])

    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/x")
    number()  # the first function of a process comes with other things
    first = number()
    for _ in range(50):
        tf.function(lambda: 1, autograph=False).get_concrete_function()
    assert number() - first == startup._NAMES
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    assert 0 < number() - first - startup._NAMES < startup._NAMES
