"""Trains a Keras model adversarially on CIFAR-10: plain `fit`, and one callback.

    python examples/cifar10.py
    python examples/cifar10.py --quick    # 8x8 digits and two epochs, without a network

It saves robust.keras, which evaluate_model.py can attack.
"""

import sys

import keras
from sklearn.datasets import load_digits

import tfadv

quick = "--quick" in sys.argv
keras.utils.set_random_seed(0)

# Pixels from 0 to 255.
if quick:
    digits = load_digits()
    images, labels = digits.images[..., None] * (255 / 16), digits.target
    x_train, y_train, x_test, y_test = images[360:], labels[360:], images[:360], labels[:360]
else:
    (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()

# Any Keras classifier. A final softmax would be fine too: the attack leaves it out.
model = keras.Sequential([keras.Input(x_train.shape[1:]), keras.layers.Rescaling(1 / 127.5, -1)])
for filters, strides in [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]:
    model.add(keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
    model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.ReLU())
model.add(keras.layers.GlobalAveragePooling2D())
model.add(keras.layers.Dense(10))
model.compile(
    optimizer=keras.optimizers.Adam(0.001),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# Lengths are in pixels of 255. Digits of 8x8 pixels withstand larger changes than photographs.
epsilon = 48 if quick else 8
attack = tfadv.attacks.PGD(epsilon, step_size=epsilon / 4, num_steps=7, targeted=False)
test = (x_test[:1000], y_test[:1000])
model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=2 if quick else 30,
    callbacks=[
        tfadv.callbacks.AdversarialTraining(attack, value_range=(0, 255)),
        tfadv.callbacks.RobustEvaluation(test, attack.with_steps(20), value_range=(0, 255)),
    ],
)
model.save("robust.keras")
