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
