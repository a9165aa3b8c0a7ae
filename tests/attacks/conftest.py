"""A softmax regression, whose gradients are worked out in NumPy, and images for it."""

import types

import numpy as np
import pytest
import tensorflow as tf

CLASSES = 7


class SoftmaxRegression:
    """`logits = flatten(images) @ weights + bias`, for images in any range."""

    def __init__(self, value_range=(0, 255), shape=(4, 5, 3), seed=0):
        rng = np.random.default_rng(seed)
        # Logits of a few units: in float32 a saturated softmax has lost its gradient to 1 - p.
        scale = 0.5 / (value_range[1] - value_range[0])
        self.weights = rng.normal(size=(int(np.prod(shape)), CLASSES)) * scale
        self.bias = rng.normal(size=CLASSES)
        self.traces = 0

    def __call__(self, images):
        self.traces += 1
        flat = tf.reshape(images, [-1, self.weights.shape[0]])
        return flat @ tf.constant(self.weights, tf.float32) + tf.constant(self.bias, tf.float32)

    def logits(self, images):
        return images.reshape(len(images), -1) @ self.weights + self.bias

    def gradient(self, images, classes, loss):
        """The gradient of the cross entropy, or of the margin, to `classes`; in float64."""
        logits, rows = self.logits(images), np.arange(len(images))
        if loss == "cross_entropy":
            slope = np.exp(logits - logits.max(1, keepdims=True))
            slope /= slope.sum(1, keepdims=True)
            slope[rows, classes] -= 1
        else:
            others = logits.copy()
            others[rows, classes] = -np.inf
            slope = np.zeros_like(logits)
            slope[rows, others.argmax(1)] = 1
            slope[rows, classes] = -1
        return (slope @ self.weights.T).reshape(images.shape)


def make(value_range=(0, 255), images=6):
    """Makes a model, images that touch both ends of the range, and labels."""
    low, high = value_range
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (images, 4, 5, 3))
    pixels[:, 0, 0], pixels[:, 1, 1] = 0, 255
    return types.SimpleNamespace(
        model=SoftmaxRegression(value_range),
        images=(low + pixels * (high - low) / 255).astype("float32"),
        labels=rng.integers(0, CLASSES, images),
        range=value_range,
        classes=CLASSES,
    )


@pytest.fixture
def case():
    return make()


@pytest.fixture
def make_case():
    return make
