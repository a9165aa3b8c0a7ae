"""A report of the environment, for questions and bug reports."""

import importlib.metadata
import os
import pathlib
import platform
import re

import keras
import tensorflow as tf

from tfadv import distributed

# Settings that change how a program computes or starts, and hold nothing personal.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HOROVOD_CYCLE_TIME",
    "HOROVOD_GPU_OPERATIONS",
    "KERAS_BACKEND",
    "OMP_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


def report_environment() -> str:
    """Describes versions, devices and Horovod's build in about ten lines, for a bug report.

    It names no file, no user and no host. Horovod need not be installed; if it is and cannot be
    imported, the report says why.

    Returns:
        A string of several lines, each a subject and what is there.

    Example:

    ```python
    print(tfadv.report_environment())
    ```
    """
    build = tf.sysconfig.get_build_info()
    cuda = f"CUDA {build['cuda_version']}" if build.get("cuda_version") else "no CUDA"
    others = ("numpy", "protobuf", "tensorboard", "tensorflow-datasets")
    settings = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    lines = {
        "tfadv": _version("tfadv"),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "TensorFlow": f"{tf.__version__}, built with {cuda}",
        "Keras": f"{keras.__version__}, {keras.config.backend()}, {keras.config.floatx()}, "
        f"policy {keras.config.dtype_policy().name}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in others),
        "processor": _processor(),
        "GPUs": _gpus(),
        "Horovod": distributed.describe_horovod(),
        "variables": ", ".join(settings) or "none of those that matter",
    }
    return "\n".join(f"{subject + ':':<12}{text}" for subject, text in lines.items())


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model[1] if model else platform.machine()}, {cores} core(s) for this process"


def _gpus():
    names = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        name = details.get("device_name", "unknown")
        names.append(f"{name} (compute capability {capability})" if capability else name)
    return ", ".join(names) or "none"
