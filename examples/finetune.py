"""Fine-tunes the normalization of a network of keras.applications for two domains.

    python examples/finetune.py
    python examples/finetune.py --quick    # random weights and 8x8 digits, without a network

The network was trained on ImageNet. Only its normalization and a new last layer learn; the
convolutions stay as they are (Section 4.4 of the paper asks how far that goes).
"""

import sys

import keras
from sklearn.datasets import load_digits

import tfadv

quick = "--quick" in sys.argv
keras.utils.set_random_seed(0)

if quick:
    digits = load_digits()
    images, labels = digits.images[..., None] * (255 / 16), digits.target
    images = images.repeat(3, axis=-1)
    x_train, y_train, x_test, y_test = images[360:], labels[360:], images[:360], labels[:360]
else:
    (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()

# Rescaling and resizing are part of the model, so that the attack changes the original pixels.
size = 32 if quick else 128
backbone = keras.applications.MobileNet(
    input_shape=(size, size, 3),
    alpha=0.25,
    include_top=False,
    pooling="avg",
    weights=None if quick else "imagenet",
)
model = keras.Sequential(
    [
        keras.Input(x_train.shape[1:]),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Resizing(size, size),
        backbone,
        keras.layers.Dense(10, name="classes"),
    ]
)

# Every batch normalization becomes a mixture whose two branches start from its weights.
model = tfadv.models.convert(model, "mbn")
tfadv.models.train_only_normalization(model)
model.get_layer("classes").trainable = True
model.compile(
    optimizer=keras.optimizers.Adam(0.001),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.summary()

attack = tfadv.attacks.PGD(epsilon=4, step_size=1, num_steps=2 if quick else 7)
model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=1 if quick else 5,
    callbacks=[
        tfadv.callbacks.AdversarialTraining(attack, value_range=(0, 255)),
        tfadv.callbacks.RobustEvaluation(
            (x_test[:1000], y_test[:1000]),
            attack.with_steps(3 if quick else 20),
            domains=["adv", "clean"],
            value_range=(0, 255),
        ),
    ],
)

# Plain Keras, without tfadv: the robust branch, and the one that is accurate on clean images.
tfadv.models.extract(model, "adv").save("robust.keras")
tfadv.models.extract(model, "clean").save("clean.keras")
