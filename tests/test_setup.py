"""setup.py, the pinned versions, the set-up scripts and the Makefile."""

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SCRIPTS = (
    ".ci/run",
    "run_horovod.sh",
    "tools/build_horovod.sh",
    "tools/setup.sh",
    "tools/setup_benchmarks.sh",
)


@pytest.fixture(scope="module")
def metadata():
    """The arguments that setup.py gives to setuptools."""
    stub = types.ModuleType("setuptools")
    received = {}
    stub.setup = lambda **arguments: received.update(arguments)
    stub.find_packages = lambda **arguments: arguments["include"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", stub)
        runpy.run_path(str(ROOT / "setup.py"))
    return received


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "a line does not pin one version"
    names = [name for name, _ in pairs]
    assert names == sorted(set(names))
    return dict(pairs)


def requirements(metadata):
    extras = [line for lines in metadata["extras_require"].values() for line in lines]
    return [Requirement(line) for line in metadata["install_requires"] + extras]


def test_version_is_the_newest_of_the_changelog(metadata):
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+?),? ", changelog, re.M)[1] == metadata["version"]


def test_a_wheel_brings_the_flagfiles_and_the_papers_numbers(tmp_path):
    source = tmp_path / "source"
    for name in ("tfadv", "flags"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120
    )
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)

    def files(directory):
        return {p.relative_to(directory) for p in directory.rglob("*") if p.is_file()}

    assert files(installed / "tfadv" / "flags") == files(ROOT / "flags")

    def program(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,  # it has no flags/
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    flagfile = "--flagfile=flags/table3/row6.flags"
    checked = program("tfadv.train", flagfile, "--dataset=synthetic", "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    # The report reads the paper's rows and their flagfiles before it looks for runs.
    report = program("tfadv.report", "source")
    assert report.returncode == 2
    assert report.stderr.endswith("source: no run of tfadv.train (no flags.txt)\n")


def test_the_core_brings_no_tensorflow_and_no_horovod(metadata):
    names = {Requirement(line).name for line in metadata["install_requires"]}
    assert not names & {"tensorflow", "tensorflow-cpu", "tf-nightly", "horovod"}


def test_every_requirement_is_pinned_to_a_version_it_allows(metadata, pins):
    for requirement in requirements(metadata):
        pinned = pins[canonicalize_name(requirement.name)]
        assert pinned in requirement.specifier, f"{requirement} against {pinned}"


def test_build_script_builds_the_horovod_that_the_extra_names(metadata, pins):
    script = (ROOT / "tools" / "build_horovod.sh").read_text()
    version = re.search(r"^HOROVOD=(.+)$", script, re.M)[1]
    assert version == pins["horovod"]
    assert f"horovod=={version}" in metadata["extras_require"]["horovod"]


def test_entry_points_exist(metadata):
    for line in metadata["entry_points"]["console_scripts"]:
        module, function = re.fullmatch(r"tfadv-\w+=(tfadv\.\w+):(\w+)", line).groups()
        assert f"\ndef {function}(" in (ROOT / (module.replace(".", "/") + ".py")).read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_and_parse(script):
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_make_help_lists_every_target():
    result = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    assert re.findall(r"^make (\S+)", result.stdout, re.M) == targets


@pytest.fixture
def clone(tmp_path):
    """The set-up files of a fresh clone."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("requirements", "tools"):
        shutil.copytree(ROOT / name, clone / name)
    shutil.copy(ROOT / "setup.py", clone)
    return clone


def set_up(clone, lacking=(), **variables):
    """Runs tools/setup.sh with only stand-ins on its PATH, so that it cannot install anything."""
    path = clone.parent / "bin"
    path.mkdir()
    needed = "awk bash cat cut dirname env grep make mktemp rm sha256sum sort tail".split()
    for name in needed:
        (path / name).symlink_to(shutil.which(name))
    for name in {"g++", "cmake"} - set(lacking):
        (path / name).symlink_to(shutil.which("true"))
    (path / "python3").symlink_to(sys.executable)
    return subprocess.run(
        [clone / "tools" / "setup.sh"],
        env={"PATH": str(path), "HOME": str(clone.parent)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("lacking", [["cmake"], ["g++"], ["g++", "cmake"]])
def test_missing_compilers_are_reported_with_their_packages_before_anything_else(clone, lacking):
    result = set_up(clone, lacking)
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == len(lacking)
    for name, line in zip(lacking, lines, strict=True):
        assert re.fullmatch(rf"build_horovod: {re.escape(name)} \(.+\) is missing: .+", line)
        assert line.endswith(f"apt-get install {name}")
    assert not (clone / ".venv").exists()


def test_an_unsupported_python_is_reported_in_one_line(clone):
    old = clone.parent / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = set_up(clone, PYTHON=str(old))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "setup: PYTHON must be a Python from 3.11 to 3.13 (TensorFlow 2.21 has no other); "
        f"received {old}\n"
    )


def test_tensorflow_is_cpu_or_gpu(clone):
    result = set_up(clone, TENSORFLOW="tpu")
    assert result.returncode == 1
    assert result.stderr == "setup: TENSORFLOW must be cpu or gpu; received tpu\n"


def test_horovod_is_on_or_off(clone):
    result = set_up(clone, HOROVOD="no")
    assert result.returncode == 1
    assert result.stderr == "setup: HOROVOD must be on or off; received no\n"


def test_without_horovod_no_compiler_is_needed(clone):
    python = clone.parent / "python-without-venv"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\necho 3.12\n')
    python.chmod(0o755)
    result = set_up(clone, ["g++", "cmake"], HOROVOD="off", PYTHON=str(python))
    assert result.returncode == 1
    assert result.stderr == (
        "setup: Python's venv module is missing: apt-get install python3.12-venv\n"
    )


@pytest.mark.parametrize(("given", "taken"), [({}, "tpu"), ({"TENSORFLOW": "vax"}, "vax")])
def test_a_venv_keeps_its_choices_until_they_are_given_again(clone, given, taken):
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".choices").write_text("TENSORFLOW=tpu\nHOROVOD_GPU_OPERATIONS=NCCL\n")
    result = set_up(clone, **given)
    assert result.stderr == f"setup: TENSORFLOW must be cpu or gpu; received {taken}\n"


def build_horovod(clone, python, **variables):
    """Runs tools/build_horovod.sh with a shell script instead of Python."""
    path = clone.parent / "python"
    path.write_text(f"#!/bin/sh\n{python}\n")
    path.chmod(0o755)
    variables = {"PYTHON": str(path), "CXX": "true", "HOROVOD_CMAKE": "true"} | variables
    return path, subprocess.run(
        [clone / "tools" / "build_horovod.sh"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_build_for_gpus_needs_a_tensorflow_for_gpus(clone):
    facts = "printf '2.21.0\\ninclude\\nprefix\\ncpu\\nmissing\\nnone\\n\\nnone\\nv2.21\\nlinux\\n'"
    _, result = build_horovod(clone, facts, HOROVOD_GPU_OPERATIONS="NCCL")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "build_horovod: HOROVOD_GPU_... needs a TensorFlow built for GPUs, as tfadv[gpu] installs "
        "it; received TensorFlow 2.21.0 for CPUs\n"
    )


@pytest.mark.parametrize("works", [True, False])
def test_a_horovod_that_is_already_there_is_used_or_refused_but_never_built(clone, works):
    facts = f"2.20.0 include {clone} cpu exported none -- /there/horovod v2.20".split()
    # The second call tries Horovod; nothing can be built without compilers.
    answer = "true" if works else "{ echo 'undefined symbol'; exit 1; }"
    python = f"if grep -q hvd.init; then {answer}; else printf '%s\\n' {' '.join(facts)}; fi"
    _, result = build_horovod(clone, python, CXX="no-compiler", HOROVOD_CMAKE="no-cmake")
    if works:
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "Using the Horovod that is already there (/there/horovod).\n"
    else:
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            "undefined symbol\nbuild_horovod: the Horovod that is already there (/there/horovod) "
            "fails with TensorFlow 2.20.0; uninstall it to have one built\n"
        )
    # One of ours, by its mark, would be built again.
    (clone / ".horovod-key").write_text("of other options")
    _, result = build_horovod(clone, python, CXX="no-compiler", HOROVOD_CMAKE="no-cmake")
    assert (result.returncode, result.stdout) == (1, "")
    assert "build_horovod: no-cmake (the build tool of Horovod) is missing" in result.stderr


def test_build_script_reports_a_missing_tensorflow(clone):
    python, result = build_horovod(clone, "echo 'ModuleNotFoundError: tensorflow' >&2\nexit 1")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "ModuleNotFoundError: tensorflow",
        f"build_horovod: no TensorFlow in {python}; install tfadv[cpu] or tfadv[gpu] first",
    ]
