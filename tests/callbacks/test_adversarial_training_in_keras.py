"""Adversarial training in Keras's `fit`, which leaves no trace in the model afterwards."""

import keras
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv.callbacks import AdversarialTraining

X, Y = cases.images(10)
still = keras.optimizers.SGD  # with a rate of 0, to see losses of known weights


def real(**options):
    return tfadv.attacks.PGD(**{"epsilon": 30, "num_steps": 2, **options})


def test_several_steps_per_execution_run_as_single_ones():
    models = [
        cases.compiled(cases.normalized("mbn"), metrics=["accuracy"], steps_per_execution=steps)
        for steps in (1, 2)
    ]
    # Three mini-batches, so that the last execution is short.
    logs = [cases.train(model, X, Y, real(), fit={"batch_size": 4}) for model in models]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)
    cases.assert_near(*map(cases.state, models))


def test_runs_eagerly_as_in_a_graph():
    models = [
        cases.compiled(cases.normalized("mbn"), metrics=["accuracy"], run_eagerly=eagerly)
        for eagerly in (False, True)
    ]
    logs = [cases.train(model, X, Y, real(), fit={"batch_size": 5}) for model in models]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)
    cases.assert_near(*map(cases.state, models))


@pytest.mark.parametrize("jit_compile", [True, "auto"])
def test_step_is_not_given_to_xla(jit_compile, monkeypatch):
    # On a machine with a GPU Keras would do so by itself, and XLA would know no collective.
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    cpus = tf.config.list_physical_devices()
    model = cases.network()
    with monkeypatch.context() as patched:
        patched.setattr(tf.config, "list_physical_devices", lambda *_: [*cpus, gpu])
        cases.compiled(model, jit_compile=jit_compile)
        assert model.jit_compile is True
    compiled = []
    function = tf.function

    def spy(*args, **kwargs):
        compiled.append(kwargs.get("jit_compile"))
        return function(*args, **kwargs)

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen["restored"] = self.model.jit_compile
            monkeypatch.setattr(tf, "function", function)

    class Spy(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            monkeypatch.setattr(tf, "function", spy)

    seen = {}
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    model.fit(X, Y, verbose=0, callbacks=[Spy(), training, Look()])
    assert compiled and not any(compiled)
    assert seen["restored"] is True and model.jit_compile is True


def test_traces_the_step_once():
    traced = []

    class Counting(cases.Mirror):
        def __call__(self, *args, **kwargs):
            traced.append(1)
            return super().__call__(*args, **kwargs)

    # Metrics make their variables in the first call, for which TensorFlow would trace it again.
    model = cases.compiled(cases.network(), metrics=["accuracy"])
    cases.train(model, X, Y, Counting(), fit={"batch_size": 5, "epochs": 2})
    assert len(traced) == 1


class Raise(keras.callbacks.Callback):
    """Raises in one of its methods, in the middle of the second epoch."""

    def __init__(self, method, error=RuntimeError):
        super().__init__()
        self._epoch = None

        def stop(number, logs=None):
            if self._epoch == 1 and number == 1:
                raise error

        setattr(self, method, stop)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch


class Nothing(keras.callbacks.Callback):
    pass


ENDS = {
    "normal": (Nothing, None),
    "ctrl-c before a batch": (lambda: Raise("on_train_batch_begin", KeyboardInterrupt), True),
    "ctrl-c after a batch": (lambda: Raise("on_train_batch_end", KeyboardInterrupt), True),
    "exception at the end of an epoch": (lambda: Raise("on_epoch_end"), True),
}


@pytest.fixture(params=ENDS)
def ended(request):
    """A model after adversarial training, and a twin with its state that was never attacked."""
    make, raises = ENDS[request.param]
    model = cases.compiled(cases.normalized("bn"), metrics=["accuracy"])
    fit = {"batch_size": 5, "epochs": 3}
    if raises:
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            cases.train(model, X, Y, callbacks=[make()], fit=fit)
    else:
        cases.train(model, X, Y, callbacks=[make()], fit=fit)
    twin = cases.compiled(cases.normalized("bn"), metrics=["accuracy"])
    twin.optimizer.build(twin.trainable_variables)
    for variable, value in zip(
        [*twin.variables, *twin.optimizer.variables], cases.state(model), strict=True
    ):
        variable.assign(value)
    return model, twin


def test_plain_fit_and_evaluate_afterwards_are_plain(ended):
    model, twin = ended
    logs = [
        each.fit(X, Y, batch_size=5, shuffle=False, verbose=0, validation_data=(X, Y)).history
        for each in (model, twin)
    ]
    assert logs[0] == logs[1] and set(logs[0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    cases.assert_equal_bits(cases.state(model), cases.state(twin))
    results = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert results == twin.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(results) == {"loss", "accuracy"}


@pytest.mark.parametrize("ended", ["normal", "ctrl-c before a batch"], indirect=True)
def test_train_on_batch_afterwards_is_plain(ended):
    model, twin = ended
    model.reset_metrics()  # as Keras does by itself since 3.15
    logs = [each.train_on_batch(X, Y, return_dict=True) for each in (model, twin)]
    assert logs[0] == logs[1] and set(logs[0]) == {"loss", "accuracy"}
    cases.assert_equal_bits(cases.state(model), cases.state(twin))


def test_adversarial_fit_can_follow_an_interrupted_one():
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    model, twin = (cases.compiled(cases.network(), still(0.0)) for _ in range(2))
    with pytest.raises(RuntimeError):
        model.fit(
            X, Y, epochs=3, batch_size=5, verbose=0, callbacks=[training, Raise("on_epoch_end")]
        )
    logs = model.fit(X, Y, verbose=0, callbacks=[training]).history
    expected = cases.train(twin, X, Y)
    assert {name: values[0] for name, values in logs.items()} == pytest.approx(expected)


def test_train_on_batch_of_another_callback_is_plain_and_changes_nothing():
    class Alongside(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs, self.model.train_on_batch(X, Y, return_dict=True)))

    seen = []
    model = cases.compiled(cases.network(), still(0.0))
    cases.train(model, X, Y, callbacks=[Alongside()], fit={"batch_size": 5, "epochs": 2})
    assert len(seen) == 4
    for ours, plain in seen:
        assert set(ours) == cases.OURS | {"loss"} and set(plain) == {"loss"}


def test_callback_serves_models_of_different_ranges_in_turn():
    training = AdversarialTraining(tfadv.attacks.PGD(epsilon=8, num_steps=0))
    for value_range in ((0, 1), (-1, 1)):
        contract = tfadv.layers.InputContract(value_range)
        inputs = keras.Input(cases.SHAPE)
        model = keras.Model(inputs, cases.network()(contract(inputs)))
        cases.compiled(model).fit(X, Y, verbose=0, callbacks=[training])
        assert training.step.value_range == value_range


ALONE = "mixture batch normalization trains its adv branch alone.* callbacks.AdversarialTraining"


def two_mixtures():
    layers = [tfadv.layers.normalization("mbn", 12, name=name) for name in ("first", "second")]
    return cases.compiled(cases.network(*layers))


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained adversarially"])
def test_plain_training_of_a_mixture_warns_in_one_line(trained):
    model = two_mixtures()
    if trained:
        cases.train(model, X, Y)
    clean = [v for v in model.variables if "/clean/" in v.path]
    before = [v.numpy() for v in clean]
    # Keras would list the gamma and beta of every clean branch, at each update that it traces.
    with cases.warnings_for_users() as warned:
        model.fit(X, Y, batch_size=5, epochs=2, verbose=0)
        model.train_on_batch(X, Y)
    assert len(warned) == 1 and warned[0].message.args[0].startswith(ALONE.split(".*")[0])
    assert "AdversarialTraining" in str(warned[0].message) and "\n" not in str(warned[0].message)
    cases.assert_equal_bits([v.numpy() for v in clean], before)


def test_other_variables_without_gradients_are_still_named_by_keras():
    class Unused(keras.layers.Layer):
        def build(self, shape):
            self.unused = self.add_weight(shape=(1,), name="unused")

        def call(self, inputs):
            return inputs

    mixture = tfadv.layers.normalization("mbn", 12)
    model = cases.compiled(cases.network(mixture, Unused()))
    with cases.warnings_for_users() as warned:
        model.fit(X, Y, verbose=0)
    assert ["unused" in str(warning.message) for warning in warned] == [False, True]


def test_mixtures_that_do_not_train_plainly_do_not_warn():
    model = tfadv.models.convert(cases.compiled(cases.normalized("keras")), "mbn")
    model.predict(X, verbose=0)
    model(X)
    cases.compiled(model).evaluate(X, Y, verbose=0)
    cases.train(model, X, Y, fit={"validation_data": (X, Y)})
    with tf.GradientTape() as tape:  # a user's own loop
        loss = model.compute_loss(
            y=Y, y_pred=tfadv.models.call(model, X, training=True, domain="clean")
        )
    assert any(gradient is not None for gradient in tape.gradient(loss, model.trainable_weights))
    model.get_layer("norm").trainable = False
    cases.compiled(model).fit(X, Y, verbose=0)
