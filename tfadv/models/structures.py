"""Models and data whose one tensor stands in a dictionary, a list or a tuple."""

import keras
import tensorflow as tf


def single(structure, name):
    """The one tensor of a structure, which Keras allows in place of the tensor itself.

    Args:
        structure: A tensor or another leaf, or a dictionary, list or tuple of one.
        name: String, what the structure is, for the message.

    Raises:
        ValueError: Naming its members, if there are several or none.
    """
    leaves = tf.nest.flatten(structure)
    if len(leaves) != 1:
        names = ", ".join(repr(key) for key in structure) if isinstance(structure, dict) else ""
        raise ValueError(
            f"{name} must be one tensor, or a dictionary, list or tuple of one; received "
            f"{len(leaves)}{f': {names}' if names else ''}"
        )
    return leaves[0]


def like(structure, tensor):
    """A tensor in the place of the one tensor of a structure."""
    return tf.nest.pack_sequence_as(structure, [tensor])


def inputs(model, images):
    """Images as a model takes them: in a dictionary or list, where it was built with one of those.

    Args:
        model: A Keras model.
        images: A tensor, or what the model takes already.
    """
    if tf.nest.is_nested(images):
        return images
    structure = _input_structure(model)
    return like(structure, images) if tf.nest.is_nested(structure) else images


def is_plain(model):
    """Whether a functional model takes and returns its tensors as such."""
    return not any(tf.nest.is_nested(getattr(model, name, None)) for name in ("input", "output"))


def _input_structure(model):
    if isinstance(model, keras.Function):
        return model.input
    # A subclassed model remembers the shapes that it was built with.
    shape = (model.get_build_config() or {}).get("input_shape")
    return dict.fromkeys(shape) if isinstance(shape, dict) and len(shape) == 1 else None
