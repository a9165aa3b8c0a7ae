"""What happens before anything else of tfadv is imported.

Importing TensorFlow takes seconds, and `--help` or a wrong flag needs none of it. So `import tfadv`
imports the whole library, except in one of our own programs: a program reads `tfadv.tables` and its
flags, and imports the rest once the flags are right.
"""

import os
import sys

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
    return started


def check_backend() -> None:
    """Raises `ImportError` in one line unless Keras uses its TensorFlow backend."""
    try:
        import keras

        backend = keras.backend.backend()
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "torch", "openvino"):
            raise
        # Keras was told to use a backend that is not installed.
        backend = os.environ.get("KERAS_BACKEND", error.name)
    if backend != "tensorflow":
        raise ImportError(
            "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); "
            f"received {backend!r}"
        ) from None
