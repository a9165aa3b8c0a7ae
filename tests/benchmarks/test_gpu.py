"""The script for a GPU, on a CPU: its parts are independent of each other, and all of them run."""

import contextlib
import importlib.util
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import gpu
from tfadv import models


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def results(capsys):
    """The lines of JSON; every line that is none is for readers."""
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("{", "#")) for line in lines)
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_part_that_fails_loses_no_other_and_none_begins_without_time(capsys):
    clock, deadlines = Clock(), []

    def takes(seconds):
        def part(deadline):
            deadlines.append(deadline)
            clock.now += seconds

        return part

    def fails(deadline):
        clock.now += 10
        raise RuntimeError("out of memory")

    parts = {
        "first": (takes(20), 30),
        "broken": (fails, 30),
        "last": (takes(67), 100),
        "never": (takes(1), 30),
    }
    assert gpu.run_parts(parts, 100, clock) == ["broken", "never"]
    assert deadlines == [30, 100]  # the third may take what is left of all
    printed = results(capsys)
    assert {"part": "broken", "failed": "RuntimeError: out of memory"} in printed
    assert printed[-1] == {"part": "never", "left_out": True}
    took = {each["part"]: each["part_seconds"] for each in printed if "part_seconds" in each}
    assert took == {"first": 20, "broken": 10, "last": 67}


def test_a_child_fails_hangs_or_answers():
    soon = time.monotonic() + 100
    others = {}
    with contextlib.ExitStack() as stack:
        broken = stack.enter_context(gpu.Child({"job": "no such job"}, soon))
        for name in ("torch", "jax"):
            job = {"job": name, "quick": True, "images": 2, "num_steps": 1}
            others[name] = stack.enter_context(gpu.Child(job, soon))
        for name, child in others.items():
            if importlib.util.find_spec(name) is None:
                assert child.result() == {"missing": name}
                assert child.result() is None
        with pytest.raises(RuntimeError, match="no such job"):
            broken.result()
    with gpu.Child({"job": "numbers", "quick": True}, time.monotonic()) as slow:
        with pytest.raises(TimeoutError):
            slow.result()
    assert slow.process.returncode is not None  # it does not live on


def test_parts_are_chosen_by_name(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--parts=numbers,nothing"])
    assert "received nothing" in capsys.readouterr().err


def test_the_network_for_jax_is_resnet50():
    shapes = gpu.resnet_shapes((3, 4, 6, 3), 64, 1000)
    kernels = sum(math.prod(shape) for shape in shapes.values())
    # A scale and a shift for each channel, and the last layer's bias.
    others = sum(2 * shape[-1] for name, shape in shapes.items() if name != "logits") + 1000
    assert kernels + others == 25_557_032  # published


def test_the_network_in_jax_computes_what_the_model_does():
    jax = pytest.importorskip("jax")
    model = models.ResNet(14, norm="bn", num_classes=7, image_size=32, width=4, blocks=[1] * 4)
    rng = np.random.default_rng(0)
    parameters = {}
    for name in gpu.resnet_shapes([1] * 4, 4, 7):
        values = model.get_layer(name).get_weights()
        if name != "logits":
            norm = model.get_layer(name.replace("conv", "norm"))
            gamma, beta, mean, variance = (rng.uniform(0.5, 1, w.shape) for w in norm.get_weights())
            mean -= 0.75
            norm.set_weights([gamma, beta, mean, variance])
            scale = gamma / np.sqrt(variance + norm.epsilon)
            values += [scale, beta - mean * scale]
        parameters[name] = [jax.numpy.asarray(value, "float32") for value in values]
    images = rng.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(gpu.jax_logits(parameters, images, [1] * 4), expected, rtol=1e-4)


@pytest.mark.slow
def test_everything_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--seconds=3000"]
    command.append(f"--study={tmp_path}")
    process = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    lines = process.stdout.splitlines()
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert printed[0]["largest_relative_difference"] < 1e-3
    assert {each["part"] for each in printed} == set(gpu.Script(gpu.parsed(["--quick"])).parts())
    assert any("pass on 2 + 2, XLA" == each.get("what") for each in printed)
    compared = {each["who"] for each in printed if {"missing", "times_as_fast"} & each.keys()}
    assert compared == {"PyTorch", "JAX"}
    assert any("0 of" in each.get("said", "") for each in printed)
    starts = {each["start"]: each for each in printed if "start" in each}
    assert starts["second"]["files"] == starts["first"]["files"] > 0
    assert {each["flags"] for each in printed if "flags" in each} == set(gpu.LAYOUTS)
