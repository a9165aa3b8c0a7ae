"""The script for a GPU, on a CPU: its parts are independent of each other, and all of them run."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest

from benchmarks import gpu


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
    with (
        gpu.Child({"job": "no such job"}, soon) as broken,
        gpu.Child({"job": "torch", "quick": True, "images": 2, "num_steps": 1}, soon) as torch,
        pytest.raises(RuntimeError, match="no such job"),
    ):
        if importlib.util.find_spec("torch") is None:
            assert torch.result() == {"missing": "torch"}
            assert torch.result() is None
        broken.result()
    with gpu.Child({"job": "numbers", "quick": True}, time.monotonic()) as slow:
        with pytest.raises(TimeoutError):
            slow.result()
    assert slow.process.returncode is not None  # it does not live on


def test_parts_are_chosen_by_name(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--parts=numbers,nothing"])
    assert "received nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_runs_on_a_cpu():
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--seconds=3000"]
    process = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    lines = process.stdout.splitlines()
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert printed[0]["largest_relative_difference"] < 1e-3
    assert {each["part"] for each in printed} == set(gpu.Script(gpu.parsed(["--quick"])).parts())
    assert any("pass on 2 + 2, XLA" == each.get("what") for each in printed)
    starts = {each["start"]: each for each in printed if "start" in each}
    assert starts["second"]["files"] == starts["first"]["files"] > 0
    assert {each["flags"] for each in printed if "flags" in each} == set(gpu.LAYOUTS)
