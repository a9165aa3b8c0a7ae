"""Adversarial training through `fit`, in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv.callbacks import AdversarialTraining

X, Y = cases.images(10)
OURS = {"adv_loss", "adv_accuracy", "attack_success", "clean_loss", "clean_accuracy"}
still = keras.optimizers.SGD  # with a rate of 0, to see losses of known weights


def state(model):
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


def assert_equal_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_near(found, expected, tolerance=1e-6):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def mixed(values, ratio=1.0, size=10):
    """By-image values of adversarial and clean images, as the mini-batches take them."""
    adversarial, clean = values
    parts = []
    for first in range(0, len(X), size):
        rows = slice(first, first + size)
        parts += [adversarial[rows], clean[rows][: cases.kept(len(X[rows]), ratio)]]
    return np.concatenate(parts)


def by_image(function):
    """`function(logits)` of the adversarial and of the clean images."""
    model = cases.network()
    return [function(cases.logits(model, x)) for x in (cases.mirrored(X), X)]


# What `fit` computes.


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.0])
def test_metrics_equal_a_count_by_hand(ratio):
    # Mini-batches of 4, 4 and a last one of 2, from arrays.
    model = cases.compiled(cases.network(), still(0.0), metrics=["accuracy"])
    logs = cases.train(model, X, Y, clean_ratio=ratio, fit={"batch_size": 4})
    losses = by_image(lambda z: cases.cross_entropy(z, Y))
    hits = by_image(lambda z: z.argmax(axis=1) == Y)
    aimed = by_image(lambda z: z.argmax(axis=1) == (Y + 1) % cases.CLASSES)[0]
    expected = {
        "accuracy": mixed(hits, ratio, 4),
        "loss": mixed(losses, ratio, 4),
        "adv_loss": losses[0],
        "adv_accuracy": hits[0],
        "attack_success": aimed,
    }
    if ratio:
        nothing = np.zeros(0)
        expected["clean_loss"] = mixed((nothing, losses[1]), ratio, 4)
        expected["clean_accuracy"] = mixed((nothing, hits[1]), ratio, 4)
    assert logs == pytest.approx({name: values.mean() for name, values in expected.items()})


def test_sample_and_class_weights():
    losses = by_image(lambda z: cases.cross_entropy(z, Y))
    weights = np.linspace(0.5, 2, len(X)).astype("float32")
    by_class = {label: 1.0 + label for label in range(cases.CLASSES)}
    for fit, weight in (
        ({"sample_weight": weights}, weights),
        ({"class_weight": by_class}, 1.0 + Y),
    ):
        model = cases.compiled(cases.network(), still(0.0))
        logs = cases.train(model, X, Y, fit=fit, clean_ratio=0.6)
        assert logs["loss"] == pytest.approx(mixed([loss * weight for loss in losses], 0.6).mean())


def test_one_hot_labels_with_smoothing_pairing_and_clean_weight():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model = cases.compiled(cases.network(), still(0.0), loss)
    logs = cases.train(
        model, X, cases.one_hot(Y), clean_ratio=0.6, clean_weight=0.3, pairing_weight=0.5
    )
    adversarial, clean = by_image(lambda z: cases.cross_entropy(z, Y, smoothing=0.1))
    z_adversarial, z_clean = by_image(lambda z: z[:6])
    pairing = np.square(z_adversarial - z_clean).mean()
    expected = 0.3 * clean[:6].mean() + 0.7 * adversarial.mean() + 0.5 * pairing
    assert logs["loss"] == pytest.approx(expected)
    assert logs["attack_success"] == pytest.approx(
        by_image(lambda z: z.argmax(axis=1) == (Y + 1) % cases.CLASSES)[0].mean()
    )


def test_clean_training_is_that_of_keras():
    ours, keras_own = cases.normalized("bn"), cases.normalized("keras")
    for model in (ours, keras_own):
        cases.compiled(model, metrics=["accuracy"])
    fit = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
    logs = ours.fit(X, Y, callbacks=[AdversarialTraining(None)], **fit).history
    expected = keras_own.fit(X, Y, **fit).history
    assert_near(state(ours), state(keras_own))
    for name in ("loss", "accuracy"):
        assert logs[name] == pytest.approx(expected[name])
        assert logs[f"clean_{name}"] == pytest.approx(expected[name])
    assert set(logs) == {"loss", "accuracy", "clean_loss", "clean_accuracy"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.5, clipnorm=0.02),
        lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.03),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
        lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5),
        lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    ],
    ids=["clipnorm", "global_clipnorm", "adamw", "loss_scale", "ema", "accumulation"],
)
def test_any_optimizer_updates_as_in_keras(make):
    # Images of which Keras makes the same update: the mini-batch itself.
    model, twin = cases.network(), cases.network()
    cases.compiled(model, make())
    cases.compiled(twin, make())
    batches = [np.concatenate([cases.mirrored(x), x]) for x in np.split(X, 2)]
    labels = np.concatenate([np.tile(y, 2) for y in np.split(Y, 2)])
    cases.train(model, X, Y, fit={"batch_size": 5})
    twin.fit(np.concatenate(batches), labels, batch_size=10, shuffle=False, verbose=0)
    assert_near(state(model), state(twin))


def test_loss_scale_skips_what_is_not_finite():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1e38)
    model = cases.compiled(cases.network(keras.layers.Rescaling(100.0)), optimizer)
    before = model.get_weights()
    cases.train(model, X, Y)
    assert_equal_bits(model.get_weights(), before)
    assert float(optimizer.dynamic_scale) == pytest.approx(5e37)


def test_validation_is_plain():
    model = cases.compiled(cases.normalized("mbn"), metrics=["accuracy"])
    logs = cases.train(model, X, Y, fit={"validation_data": (X, Y), "batch_size": 5})
    assert set(logs) == OURS | {"loss", "accuracy", "val_loss", "val_accuracy"}
    plain = model.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True)
    assert {name: logs[f"val_{name}"] for name in plain} == pytest.approx(plain)


def test_means_begin_anew_in_every_epoch():
    model = cases.compiled(cases.network(), still(0.0), metrics=["accuracy"])
    history = model.fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        callbacks=[AdversarialTraining(cases.Mirror(), value_range=(0, 1))],
    ).history
    for name, (first, second) in history.items():
        assert first == pytest.approx(second), name


def test_names_of_ours_are_no_metrics_of_the_model():
    model, seen = cases.compiled(cases.network(), metrics=["accuracy"]), []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(({metric.name for metric in self.model.metrics}, set(logs)))

    cases.train(model, X, Y, callbacks=[Look()])
    assert seen == [({"loss", "compile_metrics"}, OURS | {"loss", "accuracy"})]


# What it leaves behind.


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
    """A model that adversarial training has left, and one that was never attacked, of its state."""
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
        [*twin.variables, *twin.optimizer.variables], state(model), strict=True
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
    assert_equal_bits(state(model), state(twin))
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert found == twin.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(found) == {"loss", "accuracy"}


@pytest.mark.parametrize("ended", ["normal", "ctrl-c before a batch"], indirect=True)
def test_train_on_batch_afterwards_is_plain(ended):
    model, twin = ended
    logs = [each.train_on_batch(X, Y, return_dict=True) for each in (model, twin)]
    assert logs[0] == logs[1] and set(logs[0]) == {"loss", "accuracy"}
    assert_equal_bits(state(model), state(twin))


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
            found.append((logs, self.model.train_on_batch(X, Y, return_dict=True)))

    found = []
    model = cases.compiled(cases.network(), still(0.0))
    cases.train(model, X, Y, callbacks=[Alongside()], fit={"batch_size": 5, "epochs": 2})
    assert len(found) == 4
    for ours, plain in found:
        assert set(ours) == OURS | {"loss"} and set(plain) == {"loss"}


def test_callback_serves_models_of_different_ranges_in_turn():
    training = AdversarialTraining(tfadv.attacks.PGD(epsilon=8, num_steps=0))
    for value_range in ((0, 1), (-1, 1)):
        contract = tfadv.layers.InputContract(value_range)
        inputs = keras.Input(cases.SHAPE)
        model = keras.Model(inputs, cases.network()(contract(inputs)))
        cases.compiled(model).fit(X, Y, verbose=0, callbacks=[training])
        assert training.step.value_range == value_range


# How Keras runs it.


def test_several_steps_per_execution_run_as_single_ones():
    models = [
        cases.compiled(cases.normalized("mbn"), metrics=["accuracy"], steps_per_execution=steps)
        for steps in (1, 2)
    ]
    # Three mini-batches, so that the last execution is short.
    logs = [cases.train(model, X, Y, real(), fit={"batch_size": 4}) for model in models]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)
    assert_near(*map(state, models))


def real(**options):
    return tfadv.attacks.PGD(**{"epsilon": 30, "num_steps": 2, **options})


def test_runs_eagerly_as_in_a_graph():
    models = [
        cases.compiled(cases.normalized("mbn"), metrics=["accuracy"], run_eagerly=eagerly)
        for eagerly in (False, True)
    ]
    logs = [cases.train(model, X, Y, real(), fit={"batch_size": 5}) for model in models]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)
    assert_near(*map(state, models))


@pytest.mark.parametrize("jit_compile", [True, "auto"])
def test_step_is_not_given_to_xla(jit_compile, monkeypatch):
    # On a machine with a GPU Keras would do so by itself, and no collective would be found.
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    cpus = tf.config.list_physical_devices()
    model = cases.network()
    with monkeypatch.context() as patched:
        patched.setattr(tf.config, "list_physical_devices", lambda *_: [*cpus, gpu])
        cases.compiled(model, jit_compile=jit_compile)
        assert model.jit_compile is True
    made = []
    function = tf.function

    def spy(*args, **kwargs):
        made.append(kwargs.get("jit_compile"))
        return function(*args, **kwargs)

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found["restored"] = self.model.jit_compile
            monkeypatch.setattr(tf, "function", function)

    class Spy(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            monkeypatch.setattr(tf, "function", spy)

    found = {}
    training = AdversarialTraining(cases.Mirror(), value_range=(0, 1))
    model.fit(X, Y, verbose=0, callbacks=[Spy(), training, Look()])
    assert made and not any(made)
    assert found["restored"] is True and model.jit_compile is True


def test_traces_the_step_once():
    traced = []

    class Counting(cases.Mirror):
        def __call__(self, *args, **kwargs):
            traced.append(1)
            return super().__call__(*args, **kwargs)

    # Metrics make variables at their first sight, for which TensorFlow would trace all again.
    model = cases.compiled(cases.network(), metrics=["accuracy"])
    cases.train(model, X, Y, Counting(), fit={"batch_size": 5, "epochs": 2})
    assert len(traced) == 1


# Models of keras.applications.


def photos(count=4):
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (count, 32, 32, 3)).astype("float32"), rng.integers(0, 5, count)


def mobilenet():
    keras.utils.set_random_seed(1)
    return keras.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, classes=5)


class Recording(tfadv.attacks.PGD):
    """PGD that remembers how far the images are from where they started."""

    def __call__(self, logits_fn, images, labels, **options):
        made, goals = super().__call__(logits_fn, images, labels, **options)
        untouched, _ = self.start(
            images, labels, options["num_classes"], options["seed"], options["value_range"]
        )
        self.moved.assign(tf.reduce_mean(tf.abs(made - untouched)))
        return made, goals


@pytest.mark.parametrize("form", ["plain batch normalization", "nested, with a mixture"])
def test_softmax_model_of_keras_applications_trains_by_the_callback_alone(form):
    x, y = photos()
    model = mobilenet()
    if form != "plain batch normalization":
        inputs = keras.Input((32, 32, 3))
        model = tfadv.models.convert(keras.Model(inputs, model(inputs)), "mbn")
    loss = keras.losses.SparseCategoricalCrossentropy()  # of probabilities
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    before = [variable.numpy() for variable in model.trainable_variables]
    attack = Recording(epsilon=16, step_size=2, num_steps=3, step_size_rule="fixed")
    attack.moved = tf.Variable(0.0, trainable=False)
    logs = cases.train(model, x, y, attack, value_range=(-1, 1))
    # A pixel of 255 is 2/255 here. Through the softmax no gradient would have moved any; with
    # it, three steps of 2 move most pixels by 6 where the ball does not end before.
    assert 2.5 * 2 / 255 < float(attack.moved) <= 6 * 2 / 255
    assert set(logs) == OURS | {"loss", "accuracy"} and np.isfinite(list(logs.values())).all()
    changed = [
        np.any(new != old) for new, old in zip(model.trainable_variables, before, strict=True)
    ]
    assert np.mean(changed) > 0.95
    # The model still ends in its softmax.
    np.testing.assert_allclose(np.sum(model(x), axis=1), 1, rtol=1e-5)


# What it refuses, in one line each.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "pgd"}, r"attack must be a tfadv.attacks.PGD or None; received 'pgd'"),
        ({"clean_ratio": 1.5}, r"clean_ratio must be between 0 and 1; received 1.5"),
        ({"clean_ratio": -0.1}, r"clean_ratio must be between 0 and 1; received -0.1"),
        ({"clean_weight": 2}, r"clean_weight must be between 0 and 1; received 2"),
        ({"pairing_weight": -1}, r"pairing_weight must be between 0 and inf; received -1"),
        ({"pairing_weight": 0.5, "clean_ratio": 0}, r"pairing_weight must be 0 without pairs"),
        ({"pairing_weight": 0.5, "attack": None}, r"pairing_weight must be 0 without pairs"),
        ({"accumulation_steps": 0}, r"accumulation_steps must be an integer of at least 1"),
        ({"accumulation_steps": 1.5}, r"accumulation_steps must be an integer .* received 1.5"),
        ({"seed": -1}, r"seed must be an integer of at least 0; received -1"),
    ],
)
def test_refuses_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        AdversarialTraining(**{"attack": real(), **options})
    assert "\n" not in str(raised.value)


def refused(model, message, attack=None, **options):
    labels = [Y] * len(getattr(model, "outputs", None) or [Y])
    cases.compiled(model, loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message) as raised:
        cases.train(model, X, labels[0] if len(labels) == 1 else labels, attack, **options)
    assert "\n" not in str(raised.value)
    # And the model is as good as before.
    assert getattr(model.train_function, "callback", None) is None


def test_refuses_models_of_several_outputs_or_inputs():
    inputs = keras.Input(cases.SHAPE)
    outputs = [keras.layers.Dense(4)(keras.layers.Flatten()(inputs)) for _ in range(2)]
    refused(keras.Model(inputs, outputs), "model must have one input .* has 2 outputs")
    inputs = [keras.Input(cases.SHAPE, name=name) for name in "ab"]
    flat = keras.layers.Flatten()(keras.layers.Add()(inputs))
    model = cases.compiled(keras.Model(inputs, keras.layers.Dense(4)(flat)))
    with pytest.raises(ValueError, match="model must have one input .* has 2 inputs"):
        cases.train(model, X, Y)


def test_refuses_a_model_that_is_not_built():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    refused(model, "model must be built before AdversarialTraining, .* keras.Input")


def test_refuses_a_model_whose_range_nobody_knows():
    refused(cases.network(), "value_range must be given", value_range=None)


def test_refuses_to_pair_what_are_no_logits():
    softmax = keras.Sequential([keras.Input(cases.SHAPE), cases.network(), keras.layers.Softmax()])
    refused(
        softmax, "pairing_weight must be 0 for a model that ends in a softmax", pairing_weight=1
    )


def test_refuses_tf_distribute():
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = cases.network()
    refused(model, "with Horovod, not with tf.distribute; received .* OneDeviceStrategy")


def test_refuses_steps_per_execution_of_several_workers(monkeypatch):
    monkeypatch.setattr("tfadv.distributed.size", lambda: 2)
    model = cases.compiled(cases.network(), steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution must be 1 .* received 2"):
        cases.train(model, X, Y)


def test_refuses_parts_that_do_not_divide_a_batch():
    model = cases.compiled(cases.network())
    with pytest.raises(ValueError, match="accumulation_steps=3 for batches of 10"):
        cases.train(model, X, Y, accumulation_steps=3)


def test_images_outside_of_the_range_stop_it():
    model = cases.compiled(cases.network())
    with pytest.raises(tf.errors.InvalidArgumentError, match="images must lie inside value_range"):
        cases.train(model, X * 255, Y, real())
