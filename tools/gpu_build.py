"""Builds Horovod against NCCL in a new environment and starts it; `make test-gpu-build`.

It needs no GPU. It shows that the build compiles, that TensorFlow and NCCL define every symbol it
needs, that it can be imported, and that two processes reduce over Gloo. It downloads about 2 GB for
each version of TensorFlow.
"""

import argparse
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
PINNED = re.search(r"^tensorflow==(.*)$", CONSTRAINTS.read_text(), re.M)[1]

REDUCE = """
import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
assert hvd.nccl_built() and hvd.gloo_enabled()
total = hvd.allreduce(tf.constant([1.0 + hvd.rank()]), op=hvd.Sum)
assert hvd.size() == 2 and total.numpy() == [3.0], total
# XLA must not know Horovod's operations unless HOROVOD_ENABLE_XLA_OPS says so: the step of
# AdversarialTraining keeps it away from them, and a silent registration would hide a mistake.
try:
    tf.function(lambda x: hvd.allreduce(x, name="xla"), jit_compile=True)(tf.ones([2]))
except tf.errors.InvalidArgumentError as error:
    assert "HorovodAllreduce" in str(error), error
else:
    raise AssertionError("XLA compiled an operation of Horovod's")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=[PINNED], help="Versions of TensorFlow.")
    parser.add_argument("--folder", help="Where to keep the environments; by default nowhere.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.folder or temporary)
        rows = [check(version, folder / version) for version in arguments.versions]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\nPython {platform.python_version()}, {platform.platform(terse=True)}\n")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row.get(name, "-") for name in columns) + " |")
    sys.exit(any(row["result"] != "starts" for row in rows))


def check(version, folder):
    """Builds against one version of TensorFlow; returns a row of the table."""
    row = {"TensorFlow": version, "result": "starts"}
    python = folder / "bin" / "python"
    log = folder / "build.log"
    # CUDA's compiler must come from PyPI, even if this machine has one.
    path = [entry for entry in os.get_exec_path() if not os.path.exists(f"{entry}/nvcc")]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")},
        "PATH": os.pathsep.join([str(folder / "bin"), *path]),
        "CUDA_HOME": str(folder / "no-cuda"),
        "PYTHON": str(python),
        "SETUP_LOG": str(log),
        "TFADV_CACHE": str(folder / "cache"),
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_BUILD_CUDA_CC_LIST": os.environ.get("HOROVOD_BUILD_CUDA_CC_LIST", "80,90"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def run(*command):
        return subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    try:
        print(f"TensorFlow {version}: installing...", flush=True)
        started = time.monotonic()
        if not python.exists():
            finished(run(sys.executable, "-m", "venv", str(folder)), "venv")
        pins = ["-c", str(CONSTRAINTS)] if version == PINNED else []
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        finished(run(*pip, *pins, f"tensorflow=={version}", "nvidia-nccl-cu12"), "pip install")
        print(f"TensorFlow {version}: building...", flush=True)
        finished(run("bash", str(ROOT / "tools" / "build_horovod.sh")), "the build")
        row["minutes"] = f"{(time.monotonic() - started) / 60:.0f}"
        [library] = folder.glob("lib/python*/site-packages/horovod/tensorflow/mpi_lib.*.so")
        row.update(symbols(library, run))
        script = folder / "reduce.py"
        script.write_text(REDUCE)
        launcher = str(folder / "bin" / "horovodrun")
        finished(run(launcher, "-np", "2", "--gloo", str(python), str(script)), "two processes")
    except Failure as failure:
        row["result"] = str(failure)
    return row


class Failure(Exception):
    """A step failed."""


def finished(process, what):
    if process.returncode:
        print(process.stdout[-3000:], file=sys.stderr)
        raise Failure(f"{what} failed")


def symbols(library, run):
    """Returns how many symbols a library needs and where some come from.

    Raises:
        Failure: If a symbol, or a library it needs, is missing.
    """
    packages = library.parents[2]
    folders = ("tensorflow", "tensorflow/python", "nvidia/nccl/lib")
    path = ":".join(str(packages / folder) for folder in folders)
    needed = run("nm", "-D", "--undefined-only", str(library)).stdout.split("\n")
    resolved = run("env", f"LD_LIBRARY_PATH={path}", "ldd", "-r", str(library)).stdout
    missing = re.findall(r"undefined symbol: (\S+)", resolved)
    absent = re.findall(r"(\S+) => not found", resolved)
    nccl = re.search(r"libnccl\.so\.2 => (\S+)", run("ldd", str(library)).stdout)
    if missing or absent:
        raise Failure(f"no library defines {', '.join(missing + absent)}")
    return {
        "symbols needed": str(len(needed)),
        "undefined": "0",
        "AsGpuStreamValue": "TensorFlow's" if "AsGpuStreamValue" in str(needed) else "ours",
        "NCCL": "of the environment" if nccl and "nvidia/nccl" in nccl[1] else "of the system",
    }


if __name__ == "__main__":
    main()
