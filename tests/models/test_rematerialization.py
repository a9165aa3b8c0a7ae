"""Networks that compute their activations again are the networks that keep them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv.callbacks import AdversarialTraining, RunningStatistics
from tfadv.models import rematerialization

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 256, [6, 8, 8, 1]).astype("float32")
Y = GENERATOR.integers(0, 3, 6)


def resnet(norm):
    model = tfadv.models.SmallResNet(
        8, norm=norm, num_classes=3, image_size=8, channels=1, width=4, seed=1
    )
    generator = np.random.default_rng(2)
    for variable in model.variables:  # else each block is its shortcut, and the branches are alike
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def branched(norm):
    """What residual networks lack: concatenation, a nested model, a penalty, dropout."""
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input([8, 8, 1])
    x = keras.layers.Conv2D(4, 3, activation="relu", activity_regularizer="l2")(x)
    inner = keras.Input([6, 6, 4])
    nested = keras.Model(inner, tfadv.layers.normalization(norm, 4)(inner), name="nested")
    for _ in range(2):
        y = keras.layers.Conv2D(4, 3, padding="same")(nested(x))
        z = keras.layers.MaxPooling2D(3, 1, "same")(x)
        x = keras.layers.Conv2D(4, 1)(keras.layers.Concatenate()([y, z]))
    x = keras.layers.Dropout(0.5, seed=4)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def chain(norm):
    """A network without branches."""
    keras.utils.set_random_seed(5)
    hidden = []
    for _ in range(4):
        hidden += [
            keras.layers.Conv2D(4, 3, padding="same"),
            tfadv.layers.normalization(norm, 4),
            keras.layers.ReLU(),
        ]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input([8, 8, 1]), *hidden, *head])


def trained(make, norm, rematerialize, epochs=2, last_epochs=0, parts=1, ratio=0.5):
    """Every variable after some adversarial epochs of one step each, and the logs."""
    model = make(norm)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    attack = tfadv.attacks.PGD(epsilon=60, step_size=30, num_steps=2)
    training = AdversarialTraining(
        attack,
        clean_ratio=ratio,
        accumulation_steps=parts,
        value_range=(0, 255),
        rematerialize=rematerialize,
    )
    data = tf.data.Dataset.from_tensors((X, Y))
    last = [RunningStatistics(last_epochs)] if norm in ("bn", "mbn") else []
    history = model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[training, *last])
    found = {v.path: v.numpy() for v in model.variables + model.optimizer.variables}
    # Models are counted up in a process; their names are not what is compared.
    return list(found.values()), history.history


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("make", "norm", "kind", "options"),
    [
        (resnet, "mbn", "all", {"parts": 2, "last_epochs": 2}),
        (branched, "mbn", "all", {}),
        pytest.param(resnet, "bn", "step", {"last_epochs": 2}, marks=SLOW),
        pytest.param(resnet, "mbn", "step", {}, marks=SLOW),
        pytest.param(resnet, "gn", "all", {}, marks=SLOW),
        pytest.param(chain, "bn", "all", {"ratio": 0.0}, marks=SLOW),
    ],
)
def test_trains_as_the_plain_step_does(make, norm, kind, options):
    plain, logs = trained(make, norm, "none", **options)
    found, its_logs = trained(make, norm, kind, **options)
    for value, expected in zip(found, plain, strict=True):
        # The same operations, in another order where gradients of several users are summed.
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(its_logs[name], values, rtol=1e-5)


def gradients(model, rematerialize, domain, running_statistics=False):
    @tf.function(autograph=False)
    def step(images):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            with keras.StatelessScope() as found:
                outputs = tfadv.models.call(
                    model,
                    images,
                    training=True,
                    domain=domain,
                    running_statistics=running_statistics,
                    rematerialize=rematerialize,
                )
            loss = tf.reduce_sum(tf.square(outputs))
        moved = [found.get_current_value(v) for v in model.non_trainable_variables]
        return (
            tape.gradient(loss, images),
            tape.gradient(loss, [v.value for v in model.trainable_variables]),
            [
                v.value if m is None else m
                for v, m in zip(model.non_trainable_variables, moved, strict=True)
            ],
        )

    return step(tf.constant(X))


@pytest.mark.parametrize("domain", [pytest.param("adv", marks=SLOW), "clean", 2])
def test_runs_a_block_again_in_the_domain_of_the_call(domain):
    model = resnet("mbn")
    plain, again = (gradients(model, kind, domain) for kind in (False, True))
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-5, atol=1e-6)
    for value, expected in zip(again[1], plain[1], strict=True):
        # What the call does not reach has no gradient, where a sum would have zeros.
        assert (value is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    for value, expected in zip(again[2], plain[2], strict=True):
        np.testing.assert_array_equal(value, expected)
    # And another domain would have given something else.
    other = gradients(model, True, "clean" if domain == "adv" else "adv")
    assert np.abs(other[0] - plain[0]).max() > 0.01 * np.abs(plain[0]).max()
    assert any(value is None for value in plain[1]) == isinstance(domain, str)


def test_cuts_a_residual_network_at_its_blocks_and_a_chain_into_equal_parts():
    names = [block._nodes[-1].operation.name for block in rematerialization.blocks(resnet("bn"))]
    # The last block's output goes to the pool alone, so the rest begins before that block.
    assert names == ["relu0", "res2_block0_out", "res3_block0_out", "logits"]
    parts = [len(block._nodes) for block in rematerialization.blocks(chain("bn"))]
    assert sum(parts) == 14 and len(parts) == 4 and max(parts) <= 5


def test_leaves_the_model_as_it_was(tmp_path):
    model = resnet("bn")
    before = model.to_json(), [len(layer._inbound_nodes) for layer in model.layers]
    gradients(model, True, "adv")
    assert (model.to_json(), [len(layer._inbound_nodes) for layer in model.layers]) == before
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)  # no tensor of a graph


def test_dropout_is_the_same_in_both_runs():
    model = branched("bn")
    plain, again = (gradients(model, kind, "adv") for kind in (False, True))
    for value, expected in zip(again[1], plain[1], strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_refuses_what_it_cannot_cut():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="rematerialize needs a functional or sequential model"):
        rematerialization.blocks(Subclassed())
    inputs = keras.Input([3])
    x = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
    masked = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    with pytest.raises(ValueError, match="rematerialize needs layers without masks"):
        rematerialization.blocks(masked)
    with pytest.raises(ValueError, match='must be "none", "step" or "all"; received'):
        AdversarialTraining(None, rematerialize="half")
