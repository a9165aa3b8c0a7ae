"""Adversarial training of image classifiers in Keras and TensorFlow.

The pipeline of "Intriguing properties of adversarial training" (Xie and Yuille, 2020): mixture
batch normalization, running statistics in training, targeted PGD, and deep residual networks.
"""

import importlib
import sys

__version__ = "0.1.0"

_PACKAGES = ("attacks", "callbacks", "data", "distributed", "evaluation", "layers", "models", "training")


def __getattr__(name):
    if name in _PACKAGES:
        return importlib.import_module(f"tfadv.{name}")
    raise AttributeError(f"module 'tfadv' has no attribute {name!r}")


def _is_program():
    """Whether this import belongs to one of our programs: `python -m tfadv.train`, `tfadv-train`."""
    module = sys.orig_argv[1:] if sys.argv[0] == "-m" else []
    return any(word.startswith(("tfadv.", "-mtfadv.")) for word in module) or (
        sys.argv[0].rpartition("/")[2].startswith("tfadv-")
    )


if not _is_program():
    # A saved model loads after `import tfadv`, since that registers its layers. The programs
    # register them too, but only after they have checked their flags, which takes no TensorFlow.
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            "tfadv needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); "
            f"received {keras.backend.backend()!r}"
        )
    for _module in ("batch_normalization", "input_contract", "mixture_batch_normalization"):
        importlib.import_module(f"tfadv.layers.{_module}")
