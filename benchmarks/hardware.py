"""The machine that a benchmark ran on."""

import datetime
import importlib.metadata
import os
import pathlib
import platform

# Instructions that decide how fast a processor multiplies matrices.
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def load_average():
    """Returns the one-minute load average."""
    return round(os.getloadavg()[0], 2)


def _cpu_info(field):
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tensorflow():
    """Returns the GPUs' names, the numbers of threads, and TensorFlow's and Keras's versions."""
    import keras
    import tensorflow as tf

    threading = tf.config.threading
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    threads = {
        "intra_op_threads": threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": threading.get_inter_op_parallelism_threads(),
    }
    return gpus, threads, {"tensorflow": tf.__version__, "keras": keras.__version__}


def machine(packages=()):
    """Describes the machine and the versions, without which seconds mean nothing.

    Args:
        packages: Distributions whose versions to report, besides those of Python, NumPy,
            TensorFlow and Keras.

    Returns:
        Dictionary that JSON can hold. 0 threads means that TensorFlow chooses.
    """
    gpus, threads, versions = _tensorflow()
    flags = _cpu_info("flags").split()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _cpu_info("model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        **threads,
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "python": platform.python_version(),
            **versions,
            **{package: _version(package) for package in ("numpy", *packages)},
        },
    }


def describe(machine):
    """Describes a machine, with its load at the start and the end, in a line for below a table."""
    flags = ", ".join(machine["cpu_flags"]) or "none of the known vector instructions"
    devices = ", ".join(
        [f"{machine['cores']} cores of {machine['processor']} ({flags})"] + machine["gpus"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = machine["load_average"]
    return (
        f"{devices}; {versions}; load average {load['start']} at the start and "
        f"{load['end']} at the end; {machine['date']}."
        + (f" {machine['note']}" if machine.get("note") else "")
    )
