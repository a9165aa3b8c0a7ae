import os

import keras
import numpy as np
import tensorflow as tf

from tfadv import distributed, inspection
from tfadv.attacks import arguments
from tfadv.evaluation import Evaluator
from tfadv.evaluation.sources import open_source


class AdversarialImages(keras.callbacks.Callback):
    """Shows clean images and their adversarial counterparts in TensorBoard, as training goes on.

    The image `adversarial_images` of the run `{log_dir}` holds for each of the first images of the
    data the clean one, the adversarial one and the magnified difference; below them the label and
    what the network says, and what the attack aimed at. Images, targets and starts are the same at
    every epoch, those of the evaluation. The step is `optimizer.iterations`. Rank 0 alone works,
    for the time of one attack on a few images.

    Args:
        log_dir: String or path, the run's directory.
        data: Data, as of `tfadv.evaluation.evaluate`.
        attack: A `tfadv.attacks.PGD`.
        count: Integer, how many images.
        every: Shows at the end of every so many epochs; or a function of the epoch, from 0, that
            says whether to.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        seed: Integer, as of the evaluation.
        class_names: List of strings, or None for numbers.

    Raises:
        ValueError: Of a value outside of these rules; and at the start of `fit`, of data that do
            not fit the model.
    """

    def __init__(
        self,
        log_dir,
        data,
        attack,
        count=4,
        every=1,
        value_range=None,
        seed=0,
        class_names=None,
    ):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.data = data
        self.attack = attack
        self.count = arguments.integer("count", count, 1)
        self.every = every if callable(every) else arguments.integer("every", every, 1)
        self.value_range = value_range
        self.seed = arguments.integer("seed", seed, 0)
        self.class_names = class_names
        self._evaluator = self._batch = None

    def on_train_begin(self, logs=None):
        # On every rank, so that a mistake ends all of them.
        self._evaluator = Evaluator(
            self.model, self.attack, None, ("adv",), self.value_range, self.seed
        )
        self._batch = next(open_source(self.data, self.count, self.count, 0, 1).batches())

    def on_epoch_end(self, epoch, logs=None):
        due = self.every(epoch) if callable(self.every) else (epoch + 1) % self.every == 0
        if distributed.rank() == 0 and due:
            image = tf.io.decode_png(inspection.figure_to_png(self._figure()), channels=3)
            writer = tf.summary.create_file_writer(self.log_dir)
            with writer.as_default(int(self.model.optimizer.iterations)):
                with tf.summary.record_if(True):
                    tf.summary.image("adversarial_images", image[tf.newaxis])
            writer.close()

    def on_train_end(self, logs=None):
        self._evaluator = None  # and with it the graphs

    def _figure(self):
        images, labels, indices = self._batch
        evaluator, real = self._evaluator, self._batch[2] >= 0
        [network] = evaluator.networks
        clean = tf.cast(images, tf.float32)
        before = network.predict(clean).numpy()
        [(_, adversarial, goals)] = evaluator.trajectory(
            network,
            clean,
            labels,
            indices,
            self.attack.effective_step_size,
            [max(self.attack.num_steps, 1)],
        )
        after = network.predict(adversarial).numpy()
        captions = [
            (
                f"label {self._name(label)}\npredicted {self._name(first)}",
                f"predicted {self._name(second)}"
                + (f"\ntarget {self._name(goal)}" if self.attack.targeted else ""),
            )
            for label, first, second, goal in zip(labels, before, after, goals, strict=True)
        ]
        return inspection.pairs_figure(
            clean.numpy()[real],
            adversarial.numpy()[real],
            self.attack.epsilon,
            list(np.array(captions)[real]),
            evaluator.value_range,
        )

    def _name(self, label):
        return str(label) if self.class_names is None else self.class_names[label].split(",")[0]
