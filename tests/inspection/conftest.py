"""Models whose normalization layers hold random statistics."""

import keras
import numpy as np
import pytest

import tfadv


def fill(model, seed=0):
    """Gives every normalization layer random statistics and parameters, all of them different."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.moving_mean.shape[0]
            layer.moving_mean.assign(rng.normal(size=channels))
            layer.moving_variance.assign(rng.uniform(0.1, 3, channels))
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    variable.assign(rng.normal(size=channels))
    return model


@pytest.fixture
def resnet():
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=8, channels=1, width=4, seed=0)
    return fill(model)


@pytest.fixture
def fill_model():
    return fill
