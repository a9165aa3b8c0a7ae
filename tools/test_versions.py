"""Runs the tests beside several versions of Python, TensorFlow and Keras; `make test-versions`.

For each corner of the range that setup.py states, it makes an environment with that TensorFlow and
Keras, installs tfadv's requirements into it as `pip install .` does, and runs there the tests of
Keras's private names (the canary) and of the library's rooms, without the slow ones. Environments
are kept under ${TFADV_CACHE:-~/.cache/tfadv}/versions, a gigabyte or more each, until setup.py
changes; `make clean-cache` removes them. Another Python is one that `python3.10` and the like
start; where there is none, the Python that runs this script takes its place.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
CACHE = os.environ.get("TFADV_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tfadv"
)


@dataclasses.dataclass
class Corner:
    """A place in the range of versions.

    Args:
        python: The version of Python, such as "3.12".
        packages: What is installed before tfadv, as pip's requirements.
        pinned: Whether everything is pinned by requirements/constraints.txt.
        renewed: Whether the packages are updated whenever the tests run.
    """

    python: str
    packages: tuple[str, ...]
    pinned: bool = False
    renewed: bool = False


CORNERS = {
    "oldest": Corner(
        "3.10",
        ("tensorflow-cpu==2.17.*", "keras==3.10.*", "numpy==1.23.5", "absl-py==1.4.0"),
    ),
    # Colab's.
    "middle": Corner("3.12", ("tensorflow-cpu==2.20.*", "keras==3.13.*")),
    "newest": Corner("3.13", ("tensorflow-cpu", "keras"), pinned=True),
    # The newest Keras laid over the oldest TensorFlow, as in NVIDIA's last container with Horovod.
    "newest-keras": Corner("3.12", ("tensorflow-cpu==2.17.*", "keras"), renewed=True),
}

CANARY = ("tests/test_keras_internals.py",)
CORE = ("tests/layers", "tests/models", "tests/attacks", "tests/training", "tests/callbacks")
# `pip install .` must leave them as they are.
KEPT = ("tensorflow-cpu", "keras", "numpy", "protobuf")


class Failure(Exception):
    """A step failed."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corners", nargs="*", help=f"Some of {', '.join(CORNERS)}; by default all.")
    parser.add_argument("--canary", action="store_true", help="Only the tests of private names.")
    parser.add_argument(
        "--horovod",
        action="store_true",
        help="Build Horovod in each environment as well; without it tests of workers are skipped.",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.corners) - set(CORNERS)
    if unknown:
        parser.error(f"corners must be among {', '.join(CORNERS)}; received {', '.join(unknown)}")
    # In the background of a shell it is ignored, and would be in every test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    for name in arguments.corners or CORNERS:
        row = {"corner": name, "result": "passes"}
        rows.append(row)
        try:
            check(name, row, arguments)
        except Failure as failure:
            row["result"] = str(failure)
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "result"))
    columns.append("result")
    print(f"\n{datetime.date.today():%d %B %Y}, {platform.platform(terse=True)}\n")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row.get(column, "-") for column in columns) + " |")
    sys.exit(any(row["result"] != "passes" for row in rows))


def check(name, row, arguments):
    """Makes the environment of a corner, runs the tests in it, and fills in its row."""
    corner = CORNERS[name]
    python, changed = environment(name, corner)
    if arguments.horovod:
        print(f"{name}: building Horovod...", flush=True)
        finished(
            ["bash", "tools/build_horovod.sh"],
            python.parents[1] / "horovod.log",
            env={**os.environ, "PYTHON": str(python)},
        )
    versions = installed(python)
    row["Python"] = versions.pop("python")
    row.update({package: versions.get(package, "-") for package in KEPT})
    row["changed by tfadv"] = ", ".join(changed) or "nothing"
    began = time.monotonic()
    suites = {"canary": CANARY} if arguments.canary else {"canary": CANARY, "core": CORE}
    failed = 0
    for suite, paths in suites.items():
        row[suite], failures = run_tests(name, suite, paths, python)
        failed += failures
    row["minutes"] = f"{(time.monotonic() - began) / 60:.0f}"
    if failed or changed:
        raise Failure("fails")


def environment(name, corner):
    """Returns the Python of a corner's environment, and which packages tfadv has changed in it."""
    base = shutil.which(f"python{corner.python}")
    if base is None or not starts(base):
        print(f"{name}: there is no Python {corner.python}; using {platform.python_version()}")
        base = sys.executable
    version = subprocess.check_output([base, "--version"], text=True)
    key = hashlib.sha256(f"{version} {corner}".encode())
    key.update((ROOT / "setup.py").read_bytes())
    if corner.pinned:
        key.update(CONSTRAINTS.read_bytes())
    folder = pathlib.Path(CACHE) / "versions" / f"{name}-{key.hexdigest()[:12]}"
    python, record = folder / "bin" / "python", folder / "changed.json"
    if record.exists() and not corner.renewed:
        return python, json.loads(record.read_text())
    print(f"{name}: installing {' '.join(corner.packages)}...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.log"
    log.write_text("")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if not record.exists():
        finished([base, "-m", "venv", "--clear", "--without-pip", str(folder)], log)
        finished([str(python), "-m", "ensurepip"], log)
        # The resolver of the pip that comes with Python 3.10 takes half an hour for what takes the
        # newest one seconds.
        finished([*pip, "--upgrade", "pip"], log)
    pins = ["-c", str(CONSTRAINTS)] if corner.pinned else []
    finished([*pip, *pins, "--upgrade", *corner.packages], log)
    before = installed(python)
    with tempfile.TemporaryDirectory() as temporary:
        source = pathlib.Path(temporary) / "tfadv"
        copy_sources(source)
        finished([*pip, *pins, str(source)], log)
        # Away from the checkout, with nothing but the library's own requirements.
        finished([str(python), "-c", "import tfadv"], log, cwd=temporary)
        start = ["--flagfile=flags/table3/row6.flags", "--dataset=synthetic", "--check"]
        finished([str(folder / "bin" / "tfadv-train"), *start], log, cwd=temporary)
        after = installed(python)
        # TensorFlow is named once more, or pip would not look at its bounds.
        extras = f"{source}[programs,quickstart,test]"
        finished([*pip, *pins, *corner.packages, extras], log)
    changed = [
        f"{package} {before.get(package)} -> {after.get(package)}"
        for package in KEPT
        if before.get(package) != after.get(package)
    ]
    # The tests are to import the checkout.
    finished([str(python), "-m", "pip", "uninstall", "--yes", "tfadv"], log)
    record.write_text(json.dumps(changed))
    return python, changed


def copy_sources(folder):
    """Copies what a build of tfadv needs, so that it leaves nothing in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tfadv", "flags"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)


def starts(python):
    # A shim of pyenv is there but does not start unless its version is chosen.
    return subprocess.run([python, "--version"], capture_output=True).returncode == 0


def installed(python):
    """Returns the version of Python and of all packages in an environment."""
    program = (
        "import importlib.metadata as m, json, platform\n"
        "versions = {d.name.lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({**versions, 'python': platform.python_version()}))"
    )
    return json.loads(subprocess.check_output([str(python), "-c", program], text=True))


def run_tests(name, suite, paths, python):
    """Runs some tests in an environment; returns the counts in words, and how many failed."""
    print(f"{name}: {suite} tests...", flush=True)
    folder = python.parents[1]
    report, log = folder / f"{suite}.xml", folder / f"{suite}.log"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not runs", f"--junitxml={report}", *paths]
    with open(log, "w") as file:
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if not report.exists():
        print(log.read_text()[-3000:], file=sys.stderr)
        raise Failure(f"the {suite} tests did not run; see {log}")
    counts = ElementTree.parse(report).getroot().find("testsuite").attrib
    total, skipped = int(counts["tests"]), int(counts["skipped"])
    failed = int(counts["failures"]) + int(counts["errors"])
    if failed:
        lines = log.read_text().splitlines()
        named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print("\n".join([*named, f"All of it is in {log}."]))
    words = [f"{total - skipped - failed} passed"]
    words += [f"{failed} failed"] * bool(failed) + [f"{skipped} skipped"] * bool(skipped)
    return ", ".join(words), failed


def finished(command, log, env=None, cwd=ROOT):
    with open(log, "a") as file:
        result = subprocess.run(command, cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT)
    if result.returncode:
        print(log.read_text()[-3000:], file=sys.stderr)
        raise Failure(f"{' '.join(map(str, command[1:4]))} failed; see {log}")


if __name__ == "__main__":
    main()
