"""The start of programs: help, absl's own flags, and what is printed while TensorFlow loads."""

import importlib
import os
import re
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from tfadv import settings
from tfadv.programs import start

PROGRAMS = ("train", "evaluate", "inspect", "predict", "plan", "report")


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"tfadv.{program}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def imported(done):
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_every_flag_under_its_group_and_needs_no_tensorflow(program):
    done = run(program, "--help")
    assert done.returncode == 0 and not {"tensorflow", "keras"} & imported(done)
    table = getattr(settings, program.upper())
    headings = re.findall(r"^(\w[\w ]*):$", done.stdout, re.M)
    assert headings == list(dict.fromkeys(setting.group for setting in table))
    flags = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.M)
    assert sorted(flags) == sorted(setting.name for setting in table)


def test_the_other_helps_of_absl():
    short, full, xml = (run("report", f"--{name}") for name in ("helpshort", "helpfull", "helpxml"))
    assert [done.returncode for done in (short, full, xml)] == [0, 0, 0]
    assert "--output:" in short.stdout and "--verbosity:" not in short.stdout
    assert "--output:" in full.stdout and "--verbosity:" in full.stdout
    names = {flag.findtext("name") for flag in ElementTree.fromstring(xml.stdout).iter("flag")}
    assert names > {"output", "verbosity", "helpxml"}


def test_only_check_args_and_undefok(tmp_path):
    flags = ["--flagfile=flags/quickstart.flags", f"--run_dir={tmp_path / 'run'}"]
    checked = run("train", *flags, "--only_check_args", "--undefok=colour", "--colour=red")
    assert (checked.returncode, checked.stdout) == (0, "")
    assert "tensorflow" not in imported(checked) and not (tmp_path / "run").exists()
    wrong = run("train", *flags, "--only_check_args", "--epochs=0")
    assert wrong.returncode == 2
    assert "tfadv.train: epochs must be between 1 and 1000000; received 0\n" in wrong.stderr


def test_only_the_greeting_of_tensorflows_libraries_is_left_out(monkeypatch, capfd):
    def greet(name):
        assert name == "tensorflow"
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are ...\n")
        os.write(2, b"I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on. You ...\n")
        os.write(2, b"E0000 00:00:1.2 3 cuda.cc:1] failed call to cuInit\n")

    monkeypatch.setattr(importlib, "import_module", greet)
    start._import_tensorflow()
    assert capfd.readouterr().err == "E0000 00:00:1.2 3 cuda.cc:1] failed call to cuInit\n"


def test_output_of_a_failing_import_is_shown(monkeypatch, capfd):
    def fail(name):
        os.write(2, b"libcudart.so: cannot open shared object file\n")
        raise ImportError("broken")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="broken"):
        start._import_tensorflow()
    assert capfd.readouterr().err == "libcudart.so: cannot open shared object file\n"


def test_a_wrong_flag_is_one_line_without_tensorflow():
    done = run("train", "--epsilon=-1")
    assert done.returncode == 2 and done.stdout == ""
    assert not {"tensorflow", "keras", "numpy"} & imported(done)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == ["tfadv.train: epsilon must be between 0 and 255 (pixels of 255); received -1.0"]


def test_another_worker_leaves_a_mistake_to_rank_0_whose_end_ends_it(tmp_path):
    status = tmp_path / "status"
    launch = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "TFADV_STATUS_FILE": str(status)}
    with subprocess.Popen(
        [sys.executable, "-m", "tfadv.train", "--epsilon=-1"],
        env=os.environ | launch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as worker:
        while worker.poll() is None and not (status.exists() and status.read_text()):
            time.sleep(0.05)
        worker.terminate()  # as the launcher does when rank 0 has ended
        assert worker.stdout.read() == b""
    assert status.read_text() == "2"
