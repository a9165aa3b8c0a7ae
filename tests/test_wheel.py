"""A wheel, installed alone into a fresh environment and used from a folder that is no checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = ("train", "evaluate", "inspect", "report", "predict", "plan")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the wheel of tfadv, and a function that runs a program of it.

    Its requirements are those of the environment of this test, lent by a path, so that nothing is
    downloaded. `make test-versions` installs them all.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, venv, elsewhere = folder / "source", folder / "venv", folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("tfadv", "flags"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    variables["TF_CPP_MIN_LOG_LEVEL"] = "2"

    def run(*command, cwd=elsewhere):
        process = subprocess.run(
            list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        return process

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=source)
    [wheel] = folder.glob("tfadv-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    run(*pip, "--python", venv, "install", "--no-deps", "--no-index", wheel)
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    shutil.rmtree(source)
    return lambda program, *flags: run(venv / "bin" / program, *flags), packages, elsewhere


@pytest.mark.slow
def test_import(environment):
    run, packages, _ = environment
    program = "import tfadv; print(tfadv.__file__); print(tfadv.attacks.PGD(8, num_steps=2))"
    path, attack = run("python", "-c", program).stdout.splitlines()
    assert pathlib.Path(path) == packages / "tfadv" / "__init__.py"
    assert attack.startswith("PGD(")


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_console_script_starts(environment, program):
    run, _, _ = environment
    assert "--helpfull shows absl's flags too." in run(f"tfadv-{program}", "--help").stdout


@pytest.mark.slow
def test_train_evaluate_inspect_and_report(environment):
    """The flagfiles and the paper's numbers are in the wheel: the folder has neither."""
    run, _, elsewhere = environment
    small = ("--flagfile=flags/table3/row6.flags", "--flagfile=flags/small.flags")
    run("tfadv-train", *small, "--epochs=1", "--num_steps=1", "--run_dir=runs/row6")
    run("tfadv-evaluate", "--run_dir=runs/row6", "--num_steps=1", "--images_per_worker=60")
    run("tfadv-inspect", "--run_dir=runs/row6")
    run("tfadv-report", "runs", "--output=report")
    [report] = (elsewhere / "report").glob("*.md")
    assert "of the paper's 52 rows" in report.read_text()
