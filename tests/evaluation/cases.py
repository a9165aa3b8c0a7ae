"""Small models and images for tests of evaluations."""

import keras
import numpy as np

import tfadv

CLASSES = 5
SHAPE = (6, 6, 3)


def images(model, count, seed=0):
    """Pixels, and labels that the model's adv branch gives to three images in four."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, *SHAPE)).astype("uint8")
    return x, (predict(model, x) + (np.arange(count) % 4 == 3)) % CLASSES


def predict(model, x, domain="adv"):
    return np.argmax(tfadv.models.call(model, np.asarray(x, "float32"), domain=domain), axis=1)


def regression(seed=1, activation=None):
    """A softmax regression, whose gradient NumPy knows, and its weights."""
    inputs = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(tfadv.layers.InputContract()(inputs))
    dense = keras.layers.Dense(CLASSES, activation=activation)
    model = keras.Model(inputs, dense(flat))
    rng = np.random.default_rng(seed)
    dense.set_weights([rng.normal(size=(108, CLASSES)), rng.normal(size=CLASSES)])
    return model


def mixture(seed=2):
    """A convolutional network whose branches have statistics and parameters of their own."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(8, 3)(tfadv.layers.InputContract()(inputs))
    x = tfadv.layers.normalization("mbn", 8, name="mixture")(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(seed)
    for branch in (model.get_layer("mixture").adv, model.get_layer("mixture").clean):
        gamma, beta, mean, variance = (rng.uniform(0.3, 1, 8) for _ in range(4))
        branch.set_weights([gamma, (beta - 0.6) / 2, mean - 0.6, variance])
    return model
