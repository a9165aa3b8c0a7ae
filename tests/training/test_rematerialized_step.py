"""Training that computes activations again ends with the variables of training that keeps them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.training import cases
from tfadv.callbacks import AdversarialTraining, RunningStatistics

IMAGES = np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0])


def residual(norm):
    """Returns a stem and two residual blocks; the last block is not computed again."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(IMAGES.shape[1:])
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    for number in range(2):
        y = tfadv.layers.normalization(norm, 4, name=f"norm{number}")(x)
        y = keras.layers.ReLU()(y)
        y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(y)
        x = keras.layers.Add()([x, y])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def mixed():
    """A model with concatenation, a nested model, dropout, penalties and a softmax."""
    keras.utils.set_random_seed(2)
    inner = keras.Input((6, 6, 4))
    norm = tfadv.layers.normalization("mbn", 4, name="norm")
    y = keras.layers.Conv2D(4, 3, padding="same", activity_regularizer="l2")(inner)
    y = keras.layers.Add()([inner, norm(y)])
    y = keras.layers.Concatenate()([y, keras.layers.Dropout(0.5, seed=3)(norm(y))])
    nested = keras.Model(inner, y)
    inputs = keras.Input(IMAGES.shape[1:])
    x = nested(keras.layers.Conv2D(4, 3, padding="same", activity_regularizer="l2")(inputs))
    x = keras.layers.Multiply()([x, keras.layers.Dropout(0.5, seed=4)(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


class States(keras.callbacks.Callback):
    """All variables of model, optimizer and meters after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([*cases.state(self.model), *map(np.float64, logs.values())])


def trained(model, rematerialize, last_epochs=0, parts=1, **attack):
    """The states after each of three adversarial steps."""
    cases.compiled(
        model,
        keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=tfadv.models.logits(model) is model),
        metrics=["accuracy"],
    )
    training = AdversarialTraining(
        tfadv.attacks.PGD(epsilon=60, step_size=30, num_steps=2, **attack),
        clean_ratio=0.5,
        accumulation_steps=parts,
        value_range=(0, 1),
        rematerialize=rematerialize,
    )
    last = [RunningStatistics(last_epochs)] if last_epochs else []
    states = States()
    data = tf.data.Dataset.from_tensors((IMAGES, LABELS))
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[training, *last, states])
    return states.seen


@pytest.mark.filterwarnings("ignore:RunningStatistics trains from epoch")  # one update each
@pytest.mark.parametrize(
    ("make", "kinds", "options"),
    [
        (lambda: residual("mbn"), ["all"], {"parts": 2, "last_epochs": 1}),
        (mixed, ["all"], {}),
        pytest.param(lambda: residual("bn"), ["step", "all"], {}, marks=pytest.mark.slow),
        pytest.param(lambda: residual("gn"), ["step", "all"], {}, marks=pytest.mark.slow),
    ],
    ids=["mbn, accumulation and running statistics", "mixed", "bn", "gn"],
)
def test_trains_as_the_plain_step_does(make, kinds, options):
    plain = trained(make(), "none", **options)
    assert not np.array_equal(plain[0][0], plain[2][0])
    for kind in kinds:
        for states, expected in zip(trained(make(), kind, **options), plain, strict=True):
            # The same operations, but another order where several gradients are summed.
            largest = max(np.abs(values).max(initial=1) for values in expected)
            cases.assert_near(states, expected, 2e-6 * largest)


def test_refuses_a_model_without_blocks():
    inputs = keras.Input(cases.SHAPE)
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    with pytest.raises(ValueError, match="rematerialize needs a functional or sequential model of"):
        cases.train(cases.compiled(model), *cases.images(2), rematerialize="step")
