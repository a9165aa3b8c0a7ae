"""Saved training states: whole files, equal bits, and resumed runs that end as unbroken ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv.training import checkpoints
from tfadv.training.schedules import WarmupSteps

X, Y = cases.images(16)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(
        WarmupSteps(0.1, 512, 2, warmup_epochs=1, decay_epochs=(1,)), momentum=0.9, nesterov=True
    ),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), dynamic_growth_steps=3
    ),
}


def make(optimizer="sgd"):
    keras.utils.set_random_seed(5)
    model = cases.network(
        keras.layers.Dense(6, name="dense"),
        tfadv.layers.normalization("mbn", 6, name="norm"),
    )
    return cases.compiled(model, OPTIMIZERS[optimizer](), metrics=["accuracy"])


def built(model, *args, **options):
    """Compiled, and with the optimizer's variables, which a training gives it."""
    cases.compiled(model, *args, **options).optimizer.build(model.trainable_variables)
    return model


def fit(model, epochs, initial_epoch=0):
    # Two updates an epoch; the second epoch sees other images.
    stream = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4, drop_remainder=True)
    history = model.fit(
        stream.skip(2 * initial_epoch).repeat(),
        epochs=epochs,
        initial_epoch=initial_epoch,
        steps_per_epoch=2,
        shuffle=False,
        verbose=0,
        callbacks=[
            tfadv.callbacks.AdversarialTraining(
                tfadv.attacks.PGD(epsilon=30, num_steps=2, start_from_clean=0.5),
                value_range=(0, 1),
                seed=9,
            )
        ],
    )
    return {name: values[-1] for name, values in history.history.items()}


def assert_equal_bits(one, other):
    cases.assert_equal_bits(cases.state(one), cases.state(other))


@pytest.mark.slow  # tests/training/test_resumption.py resumes with SGD
def test_resumed_training_with_a_loss_scale_ends_with_the_bits_of_an_unbroken_one(tmp_path):
    unbroken, first, second = (make("scaled") for _ in range(3))
    logs = fit(unbroken, 2)
    fit(first, 1)
    checkpoints.save(first, tmp_path / "epoch.keras")
    checkpoints.restore(second, tmp_path / "epoch.keras")
    assert_equal_bits(second, first)
    inner = second.optimizer.inner_optimizer
    assert int(inner.iterations) == 2 and np.any(inner.variables[-1].numpy())
    assert fit(second, 2, initial_epoch=1) == logs
    assert_equal_bits(second, unbroken)


def test_names_the_first_difference(tmp_path):
    path = tmp_path / "model.keras"
    checkpoints.save(built(cases.normalized("mbn")), path)
    wide = keras.layers.Dense(8, use_bias=False, name="dense")
    for other, difference in [
        (cases.network(wide), r"dense/kernel \(12, 6\) there and dense/kernel \(12, 8\) here"),
        (cases.network(), r"dense/kernel \(12, 6\) there and logits/kernel \(12, 4\) here"),
        (cases.normalized("bn"), r"norm/clean/gamma \(6,\) there and logits/kernel \(6, 4\) here"),
    ]:
        built(other)
        before = [variable.numpy() for variable in other.variables]
        with pytest.raises(ValueError, match=f"saved in .*first difference is {difference}"):
            checkpoints.restore(other, path)
        for variable, value in zip(other.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)


def test_refuses_another_optimizer(tmp_path):
    path = tmp_path / "model.keras"
    checkpoints.save(built(cases.network(), keras.optimizers.SGD(0.1)), path)
    other = cases.compiled(cases.network(bias=True), keras.optimizers.SGD(0.1, momentum=0.9))
    other.set_weights([weight + 1 for weight in other.get_weights()])
    before = other.get_weights()
    with pytest.raises(ValueError, match="first difference is nothing there and .*momentum"):
        checkpoints.restore(other, path)
    for value, old in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_refuses_a_layer_of_another_kind_with_the_same_variables(tmp_path):
    def network(norm):
        inputs = keras.Input((4, 4, 4))
        x = tfadv.layers.normalization(norm, 4, name="norm")(inputs)
        model = keras.Model(inputs, keras.layers.Flatten()(x))
        model.compile("sgd", "mse")
        return model

    checkpoints.save(network("gn"), tmp_path / "gn.keras")
    with pytest.raises(ValueError, match="first difference is groups of layer norm: 2 there and 1"):
        checkpoints.restore(network("ln"), tmp_path / "gn.keras")


def test_initialize_takes_weights_and_statistics_and_no_optimizer(tmp_path):
    model = make()
    fit(model, epochs=1)
    model.save(tmp_path / "m.keras")
    fresh = make()
    checkpoints.initialize(fresh, tmp_path / "m.keras")
    for ours, theirs in zip(fresh.variables, model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(fresh.optimizer.iterations) == 0
    with pytest.raises(ValueError, match="the first difference is "):
        checkpoints.initialize(built(cases.normalized("bn")), tmp_path / "m.keras")
    (tmp_path / "b.keras").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="init_from must be a Keras file that loads; .*b.keras"):
        checkpoints.initialize(fresh, tmp_path / "b.keras")


def test_initialize_leaves_to_the_training_how_it_trains(tmp_path):
    def make(decay=None, **dtype):
        inputs = keras.Input(cases.SHAPE)
        x = keras.layers.Conv2D(4, 1, kernel_regularizer=decay, name="conv", **dtype)(inputs)
        x = tfadv.layers.normalization("bn", 4, name="norm", **dtype)(x)
        return keras.Model(inputs, keras.layers.Flatten()(x))

    model = make()
    tfadv.models.train_only_normalization(model)
    model.save(tmp_path / "m.keras")
    other = make(keras.regularizers.L2(0.1), dtype="mixed_bfloat16")
    checkpoints.initialize(other, tmp_path / "m.keras")
    for ours, theirs in zip(other.variables, model.variables, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)
    assert len(other.trainable_variables) == 4 and len(other.losses) == 1


def test_restores_a_training_of_the_normalization_alone(tmp_path):
    def frozen():
        model = make()
        tfadv.models.train_only_normalization(model)
        return built(model, OPTIMIZERS["sgd"](), metrics=["accuracy"])

    first, second = frozen(), frozen()
    for number, variable in enumerate(first.variables + first.optimizer.variables[1:]):
        variable.assign(np.full(variable.shape, number))
    checkpoints.save(first, tmp_path / "epoch.keras")
    checkpoints.restore(second, tmp_path / "epoch.keras")
    assert_equal_bits(second, first)
    # Four variables learn, and no other has a momentum; a training of all is another one.
    assert len(second.optimizer.variables) == 1 + 4
    with pytest.raises(ValueError, match="gamma_momentum .* there and .*kernel_momentum .* here"):
        checkpoints.restore(built(make(), OPTIMIZERS["sgd"]()), tmp_path / "epoch.keras")


def ema(**options):
    return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7, **options)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        ema,
        lambda: keras.optimizers.LossScaleOptimizer(ema()),
        pytest.param(
            lambda: keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(ema())),
            marks=pytest.mark.skipif(
                not hasattr(keras.optimizers, "MultiOptimizer"), reason="needs a newer Keras"
            ),
        ),
        lambda: keras.optimizers.SGD(0.5),
    ],
    ids=["averages", "scaled", "several", "no averages"],
)
def test_exchanges_weights_and_averages_to_the_bit_and_back(make_optimizer, request):
    model = cases.compiled(cases.network(), make_optimizer())
    for _ in range(4):
        model.train_on_batch(X, Y)
    before, weights = cases.state(model), model.get_weights()
    checkpoints.exchange_averages(model.optimizer)
    if "no averages" in request.node.name:
        cases.assert_equal_bits(cases.state(model), before)
        return
    assert all(np.any(a != b) for a, b in zip(model.get_weights(), weights, strict=True))
    checkpoints.exchange_averages(model.optimizer)
    cases.assert_equal_bits(cases.state(model), before)
    checkpoints.exchange_averages(model.optimizer)
    # What Keras takes for the averages are now the weights that train.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    cases.assert_equal_bits(model.get_weights(), weights)
