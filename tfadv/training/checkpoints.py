"""Saved models that hold the state of a training, written whole or not at all."""

import dataclasses

import keras

from tfadv import checkpoint_files, keras_internals, models, whole_files
from tfadv.checkpoint_files import Progress
from tfadv.training import averages


def save(model, path, progress=None):
    """Writes a model, its optimizer included, so that a reader never meets a half-written file.

    Args:
        model: A compiled Keras model.
        path: Of a `.keras` file.
        progress: The `Progress` of its training.

    Raises:
        OSError: Naming the file, if it cannot be written; what was there before is as it was.
    """
    with whole_files.aside(path) as temporary:
        write(model, temporary, progress)


def write(model, path, progress=None):
    """Does the same at a path that nobody reads yet."""
    model.save(path)
    generators = [variable.numpy().tolist() for variable in _generators(model)]
    checkpoint_files.stamp(path, progress or Progress(), generators)


def restore(model, path):
    """Gives a model, its optimizer and its random layers the values of a saved one.

    Args:
        model: A compiled Keras model, of the same architecture.
        path: Of a `.keras` file that `save` wrote.

    Returns:
        The `Progress` of its training.

    Raises:
        ValueError: At the first layer or variable that the two do not share.
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
        averages.exchange(model.optimizer)
    return dataclasses.replace(progress, averaged=False)


def initialize(model, path):
    """Gives a model the weights and moving statistics of a saved one, and no optimizer's state.

    What may differ, since it is how a network trains and not what it is: regularizers, dtype
    policies, and which layers are trainable.

    Args:
        model: A Keras model, of the same architecture.
        path: Of a `.keras` file.

    Raises:
        ValueError: If it does not load, or at the first layer or variable that they do not share.
    """
    saved = models.load(path, compile=False, name="init_from")
    # In the order of the layers: what is trainable, and so comes first, may differ.
    sources, targets = (
        [variable for layer in _leaves(each) for variable in layer.variables]
        for each in (saved, model)
    )
    _check_variables(sources, targets, path)
    _check_layers(saved, model, path, free=("regularizer", "dtype"))
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _generators(model):
    """The states of random layers, such as dropout, which Keras does not save."""
    saved = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in saved]


def _check_layers(saved, model, path, free=()):
    # Group, layer and instance normalization, for example, have the same variables.
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
    """What a layer computes, by its kind and configuration; not how its variables began."""
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
    # The name of the model itself, which is counted up in a process, is no difference.
    return source.name != target.name or tuple(source.shape) != tuple(target.shape)


def _describe(variable):
    return "nothing" if variable is None else f"{variable.path} {tuple(variable.shape)}"
