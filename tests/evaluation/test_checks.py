"""Wrong input is one line that names the argument and what it was."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import cases
from tfadv import data, evaluation
from tfadv.attacks import PGD

MODEL = cases.regression()
X, Y = cases.images(MODEL, 6)
BATCHED = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": []}, "num_steps must name at least one"),
        ({"num_steps": [10, -1]}, "num_steps must be an integer of at least 1; received -1"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1; received 0"),
        ({"attack": None, "num_steps": 10}, "num_steps must be None without an attack"),
        ({"attack": "PGD"}, "attack must be a tfadv.attacks.Attack or None; received 'PGD'"),
        ({"domains": ()}, 'domains must be of "adv" and "clean"; received []'),
        ({"domains": "advclean"}, 'domains must be of "adv" and "clean"; received [\'advclean\']'),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; received 0"),
        ({"limit": 0}, "limit must be an integer of at least 1; received 0"),
        ({"seed": -1}, "seed must be an integer of at least 0; received -1"),
        ({"value_range": (0, 1)}, "value_range must be (0.0, 255.0), which the input contract"),
        ({"data": 3}, "data must be a tfadv.data.Dataset, a pair"),
        ({"data": (X, Y[:5])}, "data must be at least one image and a label for each"),
        ({"data": (X[:0], Y[:0])}, "data must be at least one image and a label for each"),
        ({"data": (X[:, :4], Y)}, "data must have images of shape (6, 6, 3), which model"),
        ({"data": (X, np.eye(7)[Y])}, "data must have 5 classes, as the outputs of model"),
        ({"data": (X, Y + 1.5)}, "labels must be integers [batch] or one-hot"),
        ({"data": (X, Y + 3)}, "labels must lie between 0 and 4"),
        ({"data": (X - 1.0, Y)}, "images must lie inside value_range=(0, 255)"),
        ({"data": (X - 1.0, Y), "attack": None}, "images must lie inside value_range=(0, 255)"),
        ({"data": BATCHED.unbatch()}, "data must be batched"),
        ({"data": BATCHED.repeat()}, "data must end, or limit be given"),
        ({"data": BATCHED.map(lambda x, y: x)}, "data must give pairs (images, labels)"),
        ({"data": BATCHED.take(0)}, "data must hold at least one image; received none"),
        ({"data": data.load("digits")}, "data must have images of shape (6, 6, 3), which model"),
    ],
)
def test_wrong_arguments(options, message):
    options = {"data": (X, Y), "attack": PGD(2, num_steps=1), **options}
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        evaluation.evaluate(MODEL, **options)
    assert "\n" not in str(error.value)


def test_wrong_models():
    inputs = keras.Input(cases.SHAPE)
    flat = keras.layers.Flatten()(inputs)
    two = keras.Model(inputs, [flat, flat])
    with pytest.raises(ValueError, match="^model must have one input of images and one output"):
        evaluation.evaluate(two, (X, Y))
    with pytest.raises(ValueError, match=r"^model must return \[batch, classes\]; it returns"):
        evaluation.evaluate(keras.Model(inputs, keras.layers.ReLU()(inputs)), (X, Y))
    plain = keras.Model(inputs, keras.layers.Dense(cases.CLASSES)(flat))
    with pytest.raises(ValueError, match="^value_range must be given, as model"):
        evaluation.evaluate(plain, (X, Y), PGD(2, num_steps=1))
    # Without an attack nothing needs it.
    assert evaluation.evaluate(plain, (X, Y))[0].total == 6

    binary = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(flat))
    with pytest.raises(ValueError, match="^model must have an output for each of at least two"):
        evaluation.evaluate(binary, (X, Y))
    bounded = keras.Model(inputs, keras.layers.Dense(5, activation="hard_sigmoid")(flat))
    with pytest.raises(ValueError, match="^model must end in logits to be attacked; .* hard_sig"):
        evaluation.evaluate(bounded, (X, Y), PGD(2, num_steps=1), value_range=(0, 255))
    assert evaluation.evaluate(bounded, (X, Y))[0].total == 6
    pixels = keras.Input(cases.SHAPE, dtype="uint8")
    scaled = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    integer = keras.Model(pixels, keras.layers.Dense(cases.CLASSES)(scaled))
    with pytest.raises(ValueError, match="^model must take floating-point images .* is uint8, "):
        evaluation.evaluate(integer, (X, Y), PGD(2, num_steps=1), value_range=(0, 255))
    assert evaluation.evaluate(integer, (X, Y))[0].total == 6

    class Binary(keras.Model):
        """Its one output cannot be seen from outside."""

        def __init__(self):
            super().__init__()
            self.inner = binary

        def call(self, images, training=False):
            return self.inner(images)

    with pytest.raises(
        ValueError, match=r"^model must return .* at least two classes; .* \(4, 1\)"
    ):
        evaluation.evaluate(Binary(), (X, Y), batch_size=4)

    class Probabilities(keras.Model):
        """A softmax that cannot be seen from outside."""

        def __init__(self):
            super().__init__()
            self.inner = MODEL

        def call(self, images, training=False):
            return keras.ops.softmax(self.inner(images))

    with pytest.raises(ValueError, match="^logits_fn must return logits; it returned prob"):
        evaluation.evaluate(Probabilities(), (X, Y), PGD(2, num_steps=1))
    with pytest.raises(ValueError, match="^labels must lie between 0 and 4"):
        evaluation.evaluate(Probabilities(), (X, Y + 3))
