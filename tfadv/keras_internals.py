"""Everything tfadv uses of Keras that Keras does not publish, one function each.

Each function says which private names it needs and since which release of Keras they exist (the
releases 3.0.5, 3.3.3, 3.6.0, 3.7.0, 3.10.0 and 3.15.1 were looked at).
`tests/test_keras_internals.py` exercises each of them alone, so a new Keras fails there first.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras


def flatten_layers(
    layer: keras.Layer, include_self: bool = True, recursive: bool = True
) -> list[keras.Layer]:
    """Returns the layers inside a layer or model, at any depth or only the direct ones.

    Needs `Layer._flatten_layers`, since Keras 3.0.
    """
    return layer._flatten_layers(include_self=include_self, recursive=recursive)


def function_of(operation: Any) -> keras.Function | None:
    """Returns the functional model that a model is, or that a sequential one holds; else None.

    Needs `Sequential._functional`, since Keras 3.0; it is None until the model is built.
    """
    function = getattr(operation, "_functional", operation)
    return function if isinstance(function, keras.Function) else None


def nodes(function: keras.Function) -> list[Any]:
    """Returns the calls that a functional model consists of, in order, without its inputs.

    Needs `Function._nodes_by_depth`, since Keras 3.0, and of each node `operation`, `arguments`,
    `input_tensors`, `outputs` and `is_input`.
    """
    by_depth = function._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def producer(tensor: keras.KerasTensor) -> Any | None:
    """Returns the node whose call made a Keras tensor; None if no call did, as for an input.

    Needs `KerasTensor._keras_history` and `Operation._inbound_nodes`, since Keras 3.0.
    """
    history = getattr(tensor, "_keras_history", None)
    calls = getattr(history.operation, "_inbound_nodes", ()) if history else ()
    if not history or not calls:
        return None
    node = calls[history.node_index]
    return node if node.input_tensors else None


def twin(layer: keras.Layer, **attributes: Any) -> keras.Layer:
    """Returns a second layer with the variables of a built one and some other attributes.

    The layer itself is not touched, so other threads may call it meanwhile. Whatever Keras does in
    a call (casts, masks, `training`) it does for the twin as for the layer, because the twin has
    the layer's class and all its other attributes, private ones included: their names do not
    matter. (`copy.copy` would save and load the layer, and make new variables. `from_config` would
    make new ones too.)

    Needs layers to keep what they have in `vars(layer)`, since Keras 3.0.
    """
    other = object.__new__(type(layer))
    vars(other).update(vars(layer), **attributes)
    return other


def run_graph(function: keras.Function, inputs: Any, choose: Callable[[Any], Callable]) -> Any:
    """Goes through the graph of a functional model and calls `choose(operation)` at each node.

    Needs `Function._run_through_graph(inputs, operation_fn=...)`, since Keras 3.0.
    """
    return function._run_through_graph(inputs, operation_fn=choose)


def rewired(model: keras.Model, run: Callable[[Any, Callable], Any]) -> keras.Model:
    """Returns a twin of a functional or sequential model that goes through its graph with `run`.

    `run(inputs, choose)` takes a list of tensors, and what Keras calls for an operation:
    `choose(operation)` passes `training` on to layers that take it.

    Needs `Functional.call` to go through `self._run_through_graph(inputs, operation_fn=...)` and
    `Sequential.call` through `self._functional.call`, since Keras 3.0.
    """
    function = function_of(model)
    other = twin(
        function, _run_through_graph=lambda inputs, operation_fn: run(inputs, operation_fn)
    )
    return other if function is model else twin(model, _functional=other)


def build_compiled(model: keras.Model, batch: Any) -> None:
    """Builds a compiled model's loss and metrics for batches like `batch`, before the first one.

    Needs `Trainer._symbolic_build(data_batch=...)`, since Keras 3.0.
    """
    model._symbolic_build(data_batch=batch)


def batch_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Returns the variable that counts an optimizer's batches.

    `iterations` counts updates instead, which are fewer with `gradient_accumulation_steps`.

    Needs `Optimizer._iterations`, since Keras 3.6.
    """
    return inner_optimizer(optimizer)._iterations


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that a `LossScaleOptimizer` wraps; another one is returned as it is.

    Needs `LossScaleOptimizer.inner_optimizer`, since Keras 3.0: public, but not documented.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


def averaged_variables(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """Yields each variable that an optimizer with `use_ema=True` trains, with its moving average.

    Needs `Optimizer._trainable_variables` and `Optimizer._model_variables_moving_average`, since
    Keras 3.0; the latter holds None for a variable that has none.
    """
    optimizer = inner_optimizer(optimizer)
    for each in getattr(optimizer, "optimizers", [optimizer]):  # of a MultiOptimizer
        if each.use_ema:
            averages = each._model_variables_moving_average
            for variable, average in zip(each._trainable_variables, averages, strict=True):
                if average is not None:
                    yield variable, average


def has_swapped(callback: keras.callbacks.SwapEMAWeights) -> bool:
    """Returns whether a `SwapEMAWeights` callback has put the averages into its model.

    Needs `SwapEMAWeights._ema_weights_in_model`, since Keras 3.0.
    """
    return callback._ema_weights_in_model


def callbacks_of_fit(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """Returns all callbacks of the `fit` that calls this one, in their order.

    Keras tells a callback nothing about the others, so they are read off the stack; a callback that
    no `CallbackList` calls is alone.

    Needs the methods of a `keras.callbacks.CallbackList` to call those of its callbacks, and its
    attribute `callbacks`, since Keras 3.0.
    """
    for frame in _frames(sys._getframe(1)):
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks)
    return [callback]


def running_fit() -> Callable[[], bool]:
    """Returns a function that says, in any thread, whether the `fit` around this call still runs.

    An exception ends a `fit` without a word to its callbacks. Outside of any `fit`, as in a test,
    the answer is always yes.

    Needs the function that trains to be called `fit`, to lie in the package `keras` and to have its
    `CallbackList` in a local variable `callbacks`, since Keras 3.0.
    """
    thread = threading.get_ident()
    frame = next((frame for frame in _frames(sys._getframe(1)) if _is_fit(frame)), None)
    if frame is None:
        return lambda: True
    # By its number, since the frame itself would keep alive all that `fit` holds. Python gives the
    # number of a frame that has gone to another one; its callbacks have gone with it.
    number, callbacks = id(frame), weakref.ref(frame.f_locals["callbacks"])
    del frame

    def runs() -> bool:
        frames = _frames(sys._current_frames().get(thread))
        return callbacks() is not None and any(id(frame) == number for frame in frames)

    return runs


def _frames(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_fit(frame):
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return frame.f_code.co_name == "fit" and package == "keras"
