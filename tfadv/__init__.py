"""Adversarial training of image classifiers in Keras and TensorFlow.

The pipeline of "Intriguing properties of adversarial training" (Xie and Yuille, 2020): mixture
batch normalization, running statistics in training, targeted PGD, and deep residual networks.
"""

import importlib
import os
import sys

__version__ = "0.1.0"

_HERE = os.path.dirname(os.path.realpath(__file__))
if sys.path and os.path.realpath(sys.path[0]) == _HERE:
    # A program that was started by its path, `python tfadv/train.py`: Python looks for modules
    # beside it first, where ours would hide those of the standard library, such as `inspect`.
    sys.path[0] = os.path.dirname(_HERE)

_MODULES = (
    "attacks",
    "callbacks",
    "data",
    "distributed",
    "evaluation",
    "inspection",
    "layers",
    "models",
    "paper",
    "planning",
    "training",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"tfadv.{name}")
    raise AttributeError(f"module 'tfadv' has no attribute {name!r}")


def _is_program():
    """Whether one of our programs imports this.

    `python -m tfadv.train`, `tfadv-train` or `python tfadv/train.py`.
    """
    module = sys.orig_argv[1:] if sys.argv[0] == "-m" else []
    folder, _, command = sys.argv[0].rpartition("/")
    return (
        any(word.startswith(("tfadv.", "-mtfadv.")) for word in module)
        # A user's own tfadv-something.py is no program of ours.
        or (command.startswith("tfadv-") and not command.endswith(".py"))
        or (command.endswith(".py") and os.path.realpath(folder) == _HERE)
    )


def register():
    """Imports what saved models are made of, so that Keras can load them."""
    try:
        import keras

        backend = keras.backend.backend()
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "torch", "openvino"):
            raise
        # Keras was told to use a backend that is not even installed.
        backend = os.environ.get("KERAS_BACKEND", error.name)
    if backend != "tensorflow":
        raise ImportError(
            "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); "
            f"received {backend!r}"
        ) from None
    for module in (
        "layers.batch_normalization",
        "layers.group_normalization",
        "layers.grouped_conv",
        "layers.input_contract",
        "layers.mixture_batch_normalization",
        "layers.non_local_means",
        "models.logits_only",
        "training.schedules",
    ):
        importlib.import_module(f"tfadv.{module}")


if _is_program():
    # The programs check their flags first, which takes no TensorFlow. Its own start-up messages
    # would bury ours; its errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
else:
    # A saved model loads after `import tfadv`.
    register()
