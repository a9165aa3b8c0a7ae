"""Training and evaluation under every `keras.config.set_floatx`."""

import keras
import numpy as np
import pytest

import tfadv
from tests.training import cases
from tfadv import callbacks, models
from tfadv.training import TrainingError

# Precision of the floats: they can tell a change of one part in so many.
BITS = {"float64": 1e-6, "float16": 2**-9, "bfloat16": 2**-6}
X, Y = cases.images(16)
ATTACK = tfadv.attacks.PGD(epsilon=16, num_steps=2)


def use(floatx):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)  # which Keras keeps once a layer has asked for it


@pytest.fixture(params=BITS)
def floatx(request):
    use(request.param)
    yield request.param
    use("float32")


def train(norm, weights, **options):
    """The logs and the state of a training that evaluates itself."""
    model = cases.compiled(cases.normalized(norm), metrics=["accuracy"])
    model.set_weights(weights)
    logs = cases.train(
        model,
        X,
        Y,
        callbacks=[callbacks.RobustEvaluation((X, Y), ATTACK, value_range=(0, 1))],
        fit={"batch_size": 8, "validation_data": (X, Y)},
        **options,
    )
    return logs, [state.astype("float64") for state in cases.state(model)]


@pytest.mark.parametrize("norm", ["mbn", "keras"])
def test_trains_as_in_float32(floatx, norm):
    options = {"pairing_weight": 0.5, "accumulation_steps": 2, "clean_ratio": 0.5}
    use("float32")
    weights = cases.normalized(norm).get_weights()  # which Keras draws by their dtype
    expected_logs, expected = train(norm, weights, **options)
    use(floatx)
    logs, state = train(norm, weights, **options)
    for name in ("loss", "adv_loss", "clean_loss", "val_loss"):
        assert float(logs[name]) == pytest.approx(expected_logs[name], rel=4 * BITS[floatx])
    assert 0 <= logs["val_pgd2_accuracy"] <= logs["val_clean_accuracy"] <= 1
    cases.assert_near(state, expected, 20 * BITS[floatx])


@pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")  # after few updates
@pytest.mark.slow
def test_real_attacks_and_networks_with_decay(floatx):
    model = models.SmallResNet(8, "mbn", num_classes=4, image_size=8, width=4)
    cases.compiled(model, keras.optimizers.SGD(0.01, momentum=0.9))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, (8, 8, 8, 3)), rng.integers(0, 4, 8)
    training = callbacks.AdversarialTraining(ATTACK, attack_precision="bfloat16")
    switch = callbacks.RunningStatistics(1)
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[training, switch]).history
    assert np.isfinite(history["loss"]).all()
    plain = models.extract(model, "clean")
    outputs = models.call(model, x.astype(floatx.replace("bfloat16", "float32")), domain="clean")
    np.testing.assert_allclose(
        *(np.asarray(each, "float32") for each in (plain(x), outputs)), atol=0.05
    )


def test_decay_of_gamma_is_that_of_other_weights(floatx):
    model = cases.network(
        tfadv.layers.BatchNormalization(gamma_regularizer=keras.regularizers.L2(0.25)), decay=1e-4
    )
    decay = sum(map(float, model.losses))
    kernel = np.square(model.get_layer("logits").kernel.numpy().astype("float64")).sum()
    assert decay == pytest.approx(0.25 * 12 + 1e-4 * kernel, rel=BITS[floatx])
    assert {loss.dtype.name for loss in model.losses} == {floatx}


def test_a_loss_too_large_for_float16_says_so():
    use("float16")
    try:
        model = cases.compiled(cases.network(keras.layers.Rescaling(60000.0)))
        with pytest.raises(TrainingError, match="not finite.*float16 end at 65504") as raised:
            cases.train(model, X, Y)
    finally:
        use("float32")
    assert "\n" not in str(raised.value)
