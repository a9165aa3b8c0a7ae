"""Each private name of Keras by itself, so that an incompatible Keras fails here, and by name."""

import inspect
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import keras_internals

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def functional(name="outer"):
    """A functional model that holds a sequential one."""
    inner = keras.Sequential([keras.Input([3]), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    inputs = keras.Input([3])
    outputs = keras.layers.Dense(2, activation="softmax", name="last")(inner(inputs))
    return keras.Model(inputs, outputs, name=name), inner


def test_every_function_is_tested():
    public = {
        name
        for name, function in vars(keras_internals).items()
        if inspect.isfunction(function) and not name.startswith("_")
        if function.__module__ == keras_internals.__name__
    }
    source = inspect.getsource(inspect.getmodule(test_every_function_is_tested))
    assert {name for name in public if f"keras_internals.{name}(" not in source} == set()


def test_flatten_layers():
    model, inner = functional()
    every = keras_internals.flatten_layers(model)
    assert every[0] is model and inner in every and inner.layers[0] in every
    direct = keras_internals.flatten_layers(model, include_self=False, recursive=False)
    assert set(direct) == set(model.layers)


def test_function_of():
    model, inner = functional()
    assert keras_internals.function_of(model) is model
    part = keras_internals.function_of(inner)
    assert isinstance(part, keras.Function) and part.inputs[0].shape == (None, 3)
    unbuilt, layer = keras.Sequential([keras.layers.Dense(3)]), keras.layers.Dense(3)
    for none in (unbuilt, layer, None):
        assert keras_internals.function_of(none) is None


def test_nodes():
    model, inner = functional()
    first, second = keras_internals.nodes(model)
    assert first.operation is inner and second.operation is model.layers[-1]
    assert first.input_tensors == model.inputs and second.outputs == model.outputs
    value = tf.constant(X)
    arguments, options = first.arguments.fill_in({id(model.inputs[0]): value})
    assert arguments == (value,) and not any(v is not None for v in options.values())


def test_producer():
    model, inner = functional()
    node = keras_internals.producer(model.outputs[0])
    assert node.operation is model.layers[-1]
    assert keras_internals.producer(node.input_tensors[0]).operation is inner
    assert keras_internals.producer(model.inputs[0]) is None


def test_twin():
    layer = keras.layers.Dense(2, activation="softmax")
    layer(X)
    before = dict(vars(layer))
    twin = keras_internals.twin(layer, activation=keras.activations.linear)
    np.testing.assert_allclose(tf.nn.softmax(twin(X)), layer(X), rtol=1e-6)
    assert twin.kernel is layer.kernel and vars(layer) == before
    layer.kernel.assign(0 * layer.kernel)
    np.testing.assert_array_equal(twin(X), 0)


def test_run_graph():
    model, _ = functional()
    called = []

    def choose(operation):
        called.append(operation)
        return operation

    outputs = keras_internals.run_graph(model, tf.constant(X), choose)
    np.testing.assert_array_equal(outputs, model(X))
    assert called == [node.operation for node in keras_internals.nodes(model)]


@pytest.mark.parametrize("of", ["functional", "sequential"])
def test_rewired(of):
    model = functional()[of == "sequential"]
    model(X)
    before, seen = dict(vars(model)), []

    def run(inputs, choose):
        [value] = keras.tree.flatten(inputs)
        for node in keras_internals.nodes(keras_internals.function_of(model)):
            seen.append(node.operation)
            value = choose(node.operation)(value)
        return 2 * value

    np.testing.assert_array_equal(keras_internals.rewired(model, run)(X), 2 * model(X).numpy())
    assert len(seen) == 2 and vars(model) == before
    # `choose` passes `training` on: dropout scales the values that it keeps.
    assert np.all(keras_internals.rewired(model, run)(X, training=True) != 2 * model(X).numpy())


def test_build_compiled():
    model, _ = functional()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert not model.metrics_variables[2:]
    specs = tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int32)
    keras_internals.build_compiled(model, specs)
    assert len(model.metrics_variables) == 4  # of the loss and of the accuracy


@pytest.mark.parametrize("scaled", [False, True])
def test_batch_counter_and_inner_optimizer(scaled):
    inner = optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(inner)
    assert keras_internals.inner_optimizer(optimizer) is inner
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.constant([1.0])], [variable])
    assert int(keras_internals.batch_counter(optimizer)) == 2 and int(inner.iterations) == 1


def test_averaged_variables():
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.constant([2.0])], [variable])
    [(weights, average)] = keras_internals.averaged_variables(optimizer)
    assert weights is variable and float(weights.value[0]) == -1.0
    assert float(average.value[0]) == -0.5  # the first average is the first value, 0
    assert list(keras_internals.averaged_variables(keras.optimizers.SGD())) == []


def test_has_swapped():
    model, _ = functional()
    model.compile(keras.optimizers.SGD(use_ema=True), "sparse_categorical_crossentropy")
    callback = keras.callbacks.SwapEMAWeights()
    callback.set_model(model)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(keras_internals.has_swapped(callback))

    y = np.zeros(4)
    assert not keras_internals.has_swapped(callback)
    model.fit(X, y, validation_data=(X, y), verbose=0, callbacks=[callback, Look()])
    assert seen == [True] and not keras_internals.has_swapped(callback)


class Watched(keras.callbacks.Callback):
    """Asks in every batch, from this and from another thread, whether its `fit` still runs."""

    def __init__(self, fail=False):
        super().__init__()
        self.fail, self.seen = fail, []

    def on_train_begin(self, logs=None):
        self.callbacks = keras_internals.callbacks_of_fit(self)
        self.runs = keras_internals.running_fit()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.runs())
        thread = threading.Thread(target=lambda: self.seen.append(self.runs()))
        thread.start()
        thread.join()
        if self.fail:
            raise KeyError


def fit(*callbacks):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0, callbacks=list(callbacks))


def test_callbacks_of_fit():
    first, second = Watched(), Watched()
    fit(first, second)
    for callback in (first, second):
        assert [each for each in callback.callbacks if isinstance(each, Watched)] == [first, second]
    assert keras_internals.callbacks_of_fit(first) == [first]


@pytest.mark.parametrize("fail", [False, True])
def test_running_fit(fail):
    callback = Watched(fail)
    if fail:
        with pytest.raises(KeyError):
            fit(callback)
    else:
        fit(callback)
    assert callback.seen == [True, True]
    assert not callback.runs()

    class Other(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            callback.seen.append(callback.runs())

    fit(Other())  # another `fit` runs, not the callback's
    assert callback.seen[-1] is False


def test_running_fit_outside_of_any():
    assert keras_internals.running_fit()()
