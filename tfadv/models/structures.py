"""Models and data with one tensor inside a dictionary, list or tuple, as Keras allows."""

from typing import Any

import keras
import tensorflow as tf


def single(structure: Any, name: str) -> Any:
    """Returns the one tensor of a structure.

    Args:
        structure: A tensor or another leaf, or a dictionary, list or tuple of one.
        name: String, what the structure is, for the message.

    Raises:
        ValueError: If there are several or none; the message names them.
    """
    leaves = tf.nest.flatten(structure)
    if len(leaves) != 1:
        names = ", ".join(repr(key) for key in structure) if isinstance(structure, dict) else ""
        raise ValueError(
            f"{name} must be one tensor, or a dictionary, list or tuple of one; received "
            f"{len(leaves)}{f': {names}' if names else ''}"
        )
    return leaves[0]


def like(structure: Any, tensor: Any) -> Any:
    """Replaces the only tensor of a structure."""
    return tf.nest.pack_sequence_as(structure, [tensor])


def inputs(model: keras.Model, images: Any) -> Any:
    """Puts images into the dictionary or list that a model takes, if it was built with one.

    Args:
        model: A Keras model.
        images: A tensor, or what the model takes already.
    """
    if tf.nest.is_nested(images):
        return images
    structure = _input_structure(model)
    return like(structure, images) if tf.nest.is_nested(structure) else images


def is_plain(model: keras.Model) -> bool:
    """Returns whether a functional model takes and returns tensors, not structures of them."""
    return not any(tf.nest.is_nested(getattr(model, name, None)) for name in ("input", "output"))


def _input_structure(model):
    if isinstance(model, keras.Function):
        return model.input
    # A subclassed model remembers the shapes that it was built with.
    shape = (model.get_build_config() or {}).get("input_shape")
    return dict.fromkeys(shape) if isinstance(shape, dict) and len(shape) == 1 else None
