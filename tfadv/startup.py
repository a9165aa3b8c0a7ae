"""What happens before anything else of tfadv is imported.

Importing TensorFlow takes seconds, and `--help` or a wrong flag needs none of it. So `import tfadv`
imports the whole library, except in one of our own programs: a program reads `tfadv.tables` and its
flags, and imports the rest once the flags are right.
"""

import importlib.metadata
import os
import pathlib
import platform
import re
import sys
import zlib

_HERE = os.path.dirname(os.path.realpath(__file__))


def is_program() -> bool:
    """Whether this process runs one of our programs; if so, prepares the process for it.

    A program is started as `python -m tfadv.train`, `tfadv-train` or `python tfadv/train.py`.
    """
    if sys.path and os.path.realpath(sys.path[0]) == _HERE:
        # The program was started by its path. Python looks for modules beside it first, where ours
        # would hide those of the standard library, such as `inspect`.
        sys.path[0] = os.path.dirname(_HERE)
    module = sys.orig_argv[1:] if sys.argv[0] == "-m" else []
    folder, _, command = sys.argv[0].rpartition("/")
    started = (
        any(word.startswith(("tfadv.", "-mtfadv.")) for word in module)
        # A user's own tfadv-something.py is no program of ours.
        or (command.startswith("tfadv-") and not command.endswith(".py"))
        or (command.endswith(".py") and os.path.realpath(folder) == _HERE)
    )
    if started:
        # TensorFlow's start-up messages would bury ours; its errors still show.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        _keep_compilations()
    return started


_CACHE = "--tf_xla_persistent_cache_directory"


def _keep_compilations() -> None:
    """Makes XLA keep on disk what it compiles for GPUs, unless the user has set where, or nowhere.

    XLA does not ask whether an entry was compiled by another TensorFlow, for another kind of GPU or
    with other flags. So these are in the name of the directory.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    gpu = _gpu()
    # The flags may also be in a file that the variable names.
    if gpu is None or _CACHE in flags or (flags and not flags.startswith("-")):
        return
    try:
        tensorflow = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return
    others = [flags, os.environ.get("XLA_FLAGS", ""), os.environ.get("NVIDIA_TF32_OVERRIDE", "")]
    kind = f"{tensorflow}-{gpu}-{zlib.crc32(' '.join(others).encode()):08x}"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(caches, "tfadv", "xla", re.sub(r"[^\w.-]+", "-", kind))
    if not re.search(r"\s", directory):  # which would end the flag
        given = f"{_CACHE}={directory} --tf_xla_persistent_cache_device_types=GPU"
        os.environ["TF_XLA_FLAGS"] = f"{flags} {given}".strip()


def _gpu(devices: str = "/dev", driver: str = "/proc/driver/nvidia/gpus") -> str | None:
    """The kind of this machine's first NVIDIA GPU, or the machine's name; None without a GPU."""
    if not any(re.fullmatch(r"nvidia\d+", name) for name in os.listdir(devices)):
        return None
    for path in sorted(pathlib.Path(driver).glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if model:
            return model[1].strip()
    return platform.node()


# More than a program's start makes: the largest network has some 40,000.
_NAMES = 250_000


def repeat_names() -> None:
    """Makes the names of the next TensorFlow functions those of every start of the same program.

    XLA's cache on disk finds a function by its name, which ends in a number. TensorFlow counts with
    it all its tensors and functions; a training that resumes has made more of them before its first
    step than one that begins. So the count goes on at a round number, if there is such a cache.
    """
    if _CACHE not in os.environ.get("TF_XLA_FLAGS", ""):
        return
    try:
        from tensorflow.python.framework import ops
    except ImportError:  # not public: then a function may be compiled again
        return
    while ops.uid() % _NAMES:
        pass


# Keras up to 3.6 trains plainly where AdversarialTraining has put its step, up to 3.8 it lacks
# layers and counts no updates of a LossScaleOptimizer, and 3.9 was never tried.
OLDEST_KERAS = (3, 10)


def check_keras() -> None:
    """Raises `ImportError` in one line unless Keras is new enough and uses TensorFlow.

    setup.py requires that Keras, too, but pip installs what it is told to with `--no-deps`, and a
    container or another program's requirements may bring an older one.
    """
    try:
        import keras

        backend = keras.backend.backend()
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "torch", "openvino"):
            raise
        # Keras was told to use a backend that is not installed.
        backend = os.environ.get("KERAS_BACKEND", error.name)
    else:
        _check_version(getattr(keras, "__version__", "0"))
    if backend != "tensorflow":
        raise ImportError(
            "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); "
            f"received {backend!r}"
        ) from None


def _check_version(version):
    if tuple(map(int, version.split(".")[:2])) < OLDEST_KERAS:
        oldest = ".".join(map(str, OLDEST_KERAS))
        raise ImportError(
            f"tfadv needs Keras {oldest} or newer, since older ones train without the adversarial "
            f"step or wrongly: pip install 'keras>={oldest}'; received Keras {version}"
        )
