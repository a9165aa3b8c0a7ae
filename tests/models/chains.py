"""One network in every form that a Keras model can take, and its answer worked out layer by layer.

The network is conv, norm0, relu, norm1, pool, dense; every form names its layers so.
"""

import keras
import numpy as np
import tensorflow as tf

from tfadv.layers import MixtureBatchNormalization

SHAPE = (5, 4, 3)
NAMES = ("conv", "norm0", "relu", "norm1", "pool", "dense")


def images(count=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype("float32")


def leaves(norm=MixtureBatchNormalization):
    return [
        keras.layers.Conv2D(4, 3, name="conv"),
        norm(name="norm0"),
        keras.layers.ReLU(name="relu"),
        norm(name="norm1"),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        keras.layers.Dense(2, name="dense"),
    ]


def by_name(model):
    layers = {layer.name: layer for layer in model._flatten_layers()}
    return {name: layers[name] for name in NAMES}


def scramble(model, seed=3):
    """Other values everywhere, so that no branch equals another."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.5, variable.shape))
    return model


def scramble_mixtures(model):
    """Other statistics and parameters in the clean branches of a deep network, not far off."""
    rng = np.random.default_rng(4)
    for layer in model._flatten_layers():
        if isinstance(layer, MixtureBatchNormalization):
            layer.clean.set_weights([v * rng.uniform(0.9, 1.1) for v in layer.clean.get_weights()])
    return model


def functional(layers, shape, name=None):
    inputs = outputs = keras.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=name)


def flat(norm=MixtureBatchNormalization):
    return functional(leaves(norm), SHAPE)


def nested(norm=MixtureBatchNormalization):
    first, *middle, last = leaves(norm)
    return functional([first, functional(middle, (3, 2, 4)), last], SHAPE)


def sequential(norm=MixtureBatchNormalization):
    first, *middle, last = leaves(norm)
    return keras.Sequential([keras.Input(SHAPE), first, keras.Sequential(middle), last])


def functional_in_sequential_in_functional(norm=MixtureBatchNormalization):
    conv, norm0, *middle, pool, dense = leaves(norm)
    body = keras.Sequential([keras.Input((3, 2, 4)), norm0, functional(middle, (3, 2, 4)), pool])
    return functional([conv, body, dense], SHAPE)


CLONEABLE = [flat, nested, sequential, functional_in_sequential_in_functional]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        conv, *middle, pool, dense = leaves()
        self.first, self.parts, self.last = conv, middle, [pool, dense]

    def call(self, images, training=None):
        x = self.first(images)
        for layer in self.parts:
            x = layer(x, training=training) if "norm" in layer.name else layer(x)
        for layer in self.last:
            x = layer(x)
        return x


class AroundFunctional(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = nested()

    def call(self, images, training=None):
        return self.inner(images, training=training)


def subclassed():
    model = Subclassed()
    model(images())
    return model


def subclassed_around_functional():
    model = AroundFunctional()
    model(images())
    return model


def by_hand(model, x, domain, training=False):
    """The outputs with every image taken through the branches of its domain, layer by layer.

    The moving statistics are put back, so that the model itself can be asked afterwards.
    """
    weights = model.get_weights()
    count = {"adv": len(x), "clean": 0}.get(domain, domain)
    for name, layer in by_name(model).items():
        if "norm" in name:
            parts = [(layer.adv, x[:count]), (layer.clean, x[count:])]
            x = tf.concat([branch(p, training=training) for branch, p in parts if len(p)], 0)
        else:
            x = layer(x)
    moved = model.get_weights()
    model.set_weights(weights)
    return x.numpy(), moved
