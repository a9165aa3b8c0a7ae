"""Functional models as graphs, and networks that go through the same graph in another way."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfadv import keras_internals

# Functions to call instead of operations: `id` of a functional model -> `id` of an operation.
Substitutes = Mapping[int, Mapping[int, Callable]]


def parts(model: Any) -> list[keras.Function]:
    """Returns the functional models that a model's call goes through, each once.

    These are the model itself and the models in its graph, at any depth. What a subclassed model
    or a layer calls is Python code, not a graph, so functional models inside of them do not count.
    """
    part = keras_internals.function_of(model)
    if part is None:
        return []
    inner = [each for node in keras_internals.nodes(part) for each in parts(node.operation)]
    return list({id(each): each for each in [part, *inner]}.values())


def masking(model: keras.Model) -> keras.Layer | None:
    """Returns the first layer of a model that makes a mask, which only layers pass on; or None."""
    for layer in keras_internals.flatten_layers(model):
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
            return layer
    return None


def rewired(
    model: keras.Model,
    substitutes: Substitutes | None = None,
    runs: Mapping[int, Callable] | None = None,
) -> keras.Model:
    """Makes a network that shares every layer with a model and goes through its graph differently.

    The model itself is not changed, so other threads can call it meanwhile. (A subclassed model
    cannot be rewired without changing it: its code calls the layers that it holds, and a copy whose
    attributes are replaced would miss those in closures and caches, silently.)

    Args:
        model: A functional or sequential model; the ones in its graph are rewired as well.
        substitutes: Functions to call instead of operations.
        runs: By the `id` of a functional model, a function of its inputs (a list of tensors) and of
            `choose` that returns its outputs; `choose(operation)` is what to call for an operation.
            Keras goes through the others.
    """
    part = keras_internals.function_of(model)
    chosen = dict((substitutes or {}).get(id(part), {}))
    inner = {}
    for node in keras_internals.nodes(part):
        operation = node.operation
        if keras_internals.function_of(operation) is not None and id(operation) not in inner:
            inner[id(operation)] = rewired(operation, substitutes, runs)
    run_part = (runs or {}).get(id(part))

    def run(inputs, call):
        def choose(operation):
            if id(operation) in chosen:
                return chosen[id(operation)]
            return call(inner.get(id(operation), operation))

        if run_part is not None:
            return run_part(inputs, choose)
        return keras_internals.run_graph(part, inputs, choose)

    return keras_internals.rewired(model, run)
