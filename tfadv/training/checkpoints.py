"""Saved models that hold the state of a training, written whole or not at all."""

import dataclasses
import os

import keras
import tensorflow as tf

from tfadv import checkpoint_files, keras_internals, models, whole_files
from tfadv.checkpoint_files import Progress

Path = str | os.PathLike


def save(model: keras.Model, path: Path, progress: Progress | None = None) -> None:
    """Writes a model and its optimizer, so that no reader ever sees a half-written file.

    Args:
        model: A compiled Keras model.
        path: Path of a `.keras` file.
        progress: The `Progress` of its training.

    Raises:
        OSError: If the file cannot be written; it names the file, whose old content stays.
    """
    with whole_files.aside(path) as temporary:
        write(model, temporary, progress)


def write(model: keras.Model, path: Path, progress: Progress | None = None) -> None:
    """Writes like `save`, to a path that nobody reads yet."""
    model.save(path)
    generators = [variable.numpy().tolist() for variable in _generators(model)]
    checkpoint_files.stamp(path, progress or Progress(), generators)


def restore(model: keras.Model, path: Path) -> Progress:
    """Gives a model, its optimizer and its random layers the values of a saved one.

    Args:
        model: A compiled Keras model of the same architecture.
        path: Path of a `.keras` file that `save` or `tfadv.callbacks.Checkpoint` wrote.

    Returns:
        The `Progress` of its training.

    Raises:
        ValueError: For the first layer or variable that differs.

    Example:

    ```python
    from tfadv.training import checkpoints

    training = tfadv.callbacks.AdversarialTraining(attack)
    saving = tfadv.callbacks.Checkpoint("checkpoints")
    model.fit(images, labels, epochs=1, callbacks=[training, saving])

    progress = checkpoints.restore(model, "checkpoints/epoch-0001.keras")
    training = tfadv.callbacks.AdversarialTraining(attack, progress=progress)
    model.fit(images, labels, initial_epoch=progress.epoch, epochs=2, callbacks=[training, saving])
    ```
    """
    progress, generators = checkpoint_files.read(path)
    saved = models.load(path, name="checkpoint")
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if not saved.optimizer.built:
        saved.optimizer.build(saved.trainable_variables)
    sources = saved.variables + saved.optimizer.variables
    targets = model.variables + model.optimizer.variables
    _check_variables(sources, targets, path)
    _check_layers(saved, model, path)
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)
    for variable, value in zip(_generators(model), generators, strict=True):
        variable.assign(value)
    if progress.averaged:
        exchange_averages(model.optimizer)
    return dataclasses.replace(progress, averaged=False)


def initialize(model: keras.Model, path: Path) -> None:
    """Gives a model the weights and moving statistics of a saved one, without the optimizer.

    The two may differ in how they train: in regularizers, dtype policies, and the layers that are
    trainable.

    Args:
        model: A Keras model of the same architecture.
        path: Path of a `.keras` file.

    Raises:
        ValueError: If the file does not load, or for the first layer or variable that differs.
    """
    saved = models.load(path, compile=False, name="init_from")
    # In the order of the layers: in that of the model, trainable variables come first.
    sources, targets = (
        [variable for layer in _leaves(each) for variable in layer.variables]
        for each in (saved, model)
    )
    _check_variables(sources, targets, path)
    _check_layers(saved, model, path, free=("regularizer", "dtype"))
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def exchange_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Exchanges weights and the moving averages that an optimizer with `use_ema=True` keeps.

    A second exchange undoes the first to the bit.

    Args:
        optimizer: A built Keras optimizer; it may be a `LossScaleOptimizer` or `MultiOptimizer`.
    """
    for variable, average in keras_internals.averaged_variables(optimizer):
        weights = tf.identity(variable.value)
        variable.assign(tf.identity(average.value))
        average.assign(weights)


def _generators(model):
    """The states of random layers, such as dropout, which Keras does not save."""
    saved = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in saved]


def _check_layers(saved, model, path, free=()):
    # Their variables may be the same: those of group, layer and instance normalization are.
    for here, there in zip(_leaves(model), _leaves(saved), strict=False):
        mine, its = _settings(here, free), _settings(there, free)
        if mine != its:
            names = [name for name in mine if mine[name] != its.get(name)] or list(its)
            raise ValueError(
                f"the model must be the one saved in {path}; the first difference is "
                f"{names[0]} of layer {here.name}: {its.get(names[0])} there and "
                f"{mine[names[0]]} here"
            )


def _leaves(model):
    layers = keras_internals.flatten_layers(model)
    return [layer for layer in layers if not isinstance(layer, keras.Model)]


def _settings(layer, free):
    """A layer's class and configuration, without its name and how its variables began."""
    config = {
        name: value
        for name, value in layer.get_config().items()
        if name not in ("name", "trainable") and not name.endswith(("_initializer", *free))
    }
    return {"class": type(layer).__name__, **config}


def _check_variables(sources, targets, path):
    for place in range(max(len(sources), len(targets))):
        source = sources[place] if place < len(sources) else None
        target = targets[place] if place < len(targets) else None
        if source is None or target is None or _differ(source, target):
            raise ValueError(
                f"the model must be the one saved in {path}; the first difference is "
                f"{_describe(source)} there and {_describe(target)} here"
            )


def _differ(source, target):
    # Not by path, which begins with the model's own name, numbered in each process.
    return source.name != target.name or tuple(source.shape) != tuple(target.shape)


def _describe(variable):
    return "nothing" if variable is None else f"{variable.path} {tuple(variable.shape)}"
