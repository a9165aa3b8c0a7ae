"""Networks for measuring speed and strength, trained briefly on handwritten digits.

With random weights the logits hardly depend on the image, and the last normalization of every
residual block has gamma 0, so an attack's strength would mean nothing.

A digit is enlarged to a tile, and larger images are filled with copies of it. So a network trained
at the size of a tile also works at the full size, where training would take hours on a CPU.
"""

import dataclasses
import math

import keras
import tensorflow as tf

from benchmarks import measuring
from tfadv import data, models

VALUE_RANGE = (0.0, 255.0)
NUM_CLASSES = 10
DATA = "scikit-learn's handwritten digits"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its training.

    Args:
        title: Name in the tables.
        make: Function, image size -> model.
        image_size: Size of the images in the measurements, in pixels.
        tile: Size of a digit and of the training images, in pixels.
        steps: Number of updates, by Adam with a constant learning rate.
        batch_size: Number of images in an update.
        learning_rate: Adam's learning rate.
    """

    title: str
    make: callable
    image_size: int
    tile: int
    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 3e-3

    def trained(self, margin=0.0, steps=None):
        """Builds the network, trains it on clean images, and returns it.

        Only the adv branch of a mixture is trained, since plain `fit` uses that one.

        Args:
            margin: As in `digits`.
            steps: Number of updates, instead of `self.steps`.
        """
        steps = steps or self.steps
        measuring.progress(f"{self.title}: {steps} steps of training")
        model = self.make(self.tile)
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        batches = data.load("digits").train_batches(self.batch_size, steps)
        batches = batches.map(lambda images, y: (self._enlarged(images, self.tile, margin), y))
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        if self.image_size == self.tile:
            return model
        full = self.make(self.image_size)
        full.set_weights(model.get_weights())
        return full

    def digits(self, batch_size, margin=0.0):
        """Returns digits that the network was not trained on.

        Args:
            batch_size: Number of images in a batch.
            margin: Distance that all pixels keep from the ends of the range, in pixels of 255.

        Returns:
            List of batches of the 360 validation digits, without an incomplete last batch: tensors
            of float32 images `[batch, size, size, 3]` and of int32 labels.
        """
        return [
            (self._enlarged(images, self.image_size, margin), labels)
            for images, labels, indices in data.load("digits").validation_batches(batch_size)
            if tf.reduce_min(indices) >= 0
        ]

    def _enlarged(self, images, image_size, margin):
        low, high = VALUE_RANGE
        images = low + margin + tf.cast(images, tf.float32) * ((high - low - 2 * margin) / 255)
        images = tf.image.resize(images, [self.tile, self.tile])
        copies = math.ceil(image_size / self.tile)
        return tf.tile(images, [1, copies, copies, 3])[:, :image_size, :image_size]


def _small(norm):
    return lambda size: models.SmallResNet(
        20, norm=norm, num_classes=NUM_CLASSES, image_size=size, seed=0
    )


def _resnet50(size):
    return models.ResNet(50, num_classes=NUM_CLASSES, image_size=size, seed=0)


NETWORKS = {
    "small": Network("20-layer ResNet of width 16 at 32 pixels", _small("bn"), 32, 32),
    "resnet50": Network(
        "ResNet-50 at 224 pixels", _resnet50, 224, 64, steps=100, batch_size=16, learning_rate=1e-3
    ),
    "mixture": Network(
        "20-layer ResNet of width 16 with mixture BN at 32 pixels", _small("mbn"), 32, 32
    ),
}
