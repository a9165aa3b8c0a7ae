"""Saved models that hold the state of a training, written whole or not at all."""

import os
import pathlib

import keras


def save(model, path):
    """Writes a model, its optimizer included, so that a reader never meets a half-written file.

    Args:
        model: A compiled Keras model.
        path: Of a `.keras` file.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    try:
        model.save(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(model, path):
    """Gives a model and its optimizer the values of a saved one.

    All but the states of random layers, as dropout, which Keras does not save: those start anew.

    Args:
        model: A compiled Keras model, of the same architecture.
        path: Of a `.keras` file.

    Raises:
        ValueError: At the first variable that the two do not share, by its name and shapes.
    """
    saved = keras.saving.load_model(path)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if not saved.optimizer.built:
        saved.optimizer.build(saved.trainable_variables)
    copy(
        saved.variables + saved.optimizer.variables,
        model.variables + model.optimizer.variables,
        path,
    )


def copy(sources, targets, path):
    """Assigns variables to variables, of the same names and shapes in the same order."""
    for place in range(max(len(sources), len(targets))):
        source = sources[place] if place < len(sources) else None
        target = targets[place] if place < len(targets) else None
        if source is None or target is None or _differ(source, target):
            raise ValueError(
                f"the model must be the one saved in {path}; the first difference is "
                f"{_describe(source)} there and {_describe(target)} here"
            )
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _differ(source, target):
    # The name of the model itself, which is counted up in a process, is no difference.
    return source.name != target.name or tuple(source.shape) != tuple(target.shape)


def _describe(variable):
    return "nothing" if variable is None else f"{variable.path} {tuple(variable.shape)}"
