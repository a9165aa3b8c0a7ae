import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv import arguments, distributed, inspection
from tfadv.attacks import Attack
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.evaluation import Evaluator
from tfadv.evaluation.sources import open_source
from tfadv.event_files import EventFile


class AdversarialImages(ValidatedWeights):
    """Shows clean images and their adversarial counterparts in TensorBoard during training.

    For the first images of the data, the image `adversarial_images` of the run
    `{log_dir}/validation` shows the clean image, the adversarial one and the perturbation,
    magnified, with the label, the predictions and the attack's target. Images, targets and starts
    are those of the evaluation, through the adv branch of a mixture, and the same at every epoch.
    The step is `optimizer.iterations`. Rank 0 works alone, for the time of one attack on a few
    images.

    Args:
        log_dir: String or path, the directory of the run.
        data: Data, as for `tfadv.evaluation.evaluate`.
        attack: A `tfadv.attacks.Attack`; the first of the restarts of PGD is shown.
        count: Integer, how many images to show.
        every: Integer, show images after every so many epochs; or a function of the epoch, from 0,
            that says whether to.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        seed: Integer, the seed of the evaluation.
        class_names: List of strings, or None for numbers.

    Raises:
        ValueError: For an argument outside of these rules; and from `fit`, before training, for
            data that do not fit the model.

    Example:

    ```python
    model.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.AdversarialImages("runs/x", (test_images, test_labels), attack),
    ])
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        data: Any,
        attack: Attack,
        count: int = 4,
        every: int | Callable[[int], bool] = 1,
        value_range: tuple[float, float] | None = None,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.data = data
        self.attack = attack
        self.count = arguments.integer("count", count, 1)
        self.every = every if callable(every) else arguments.integer("every", every, 1)
        self.value_range = value_range
        self.seed = arguments.integer("seed", seed, 0)
        self.class_names = class_names
        self._evaluator: Any = None
        self._batch: Any = None
        self._file: EventFile | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.on_train_end()  # of a training that an exception ended
        # On every rank, so that a mistake ends all of them.
        self._evaluator = Evaluator(
            self.model, self.attack, None, ("adv",), self.value_range, self.seed
        )
        self._evaluator.open(self.data, self.count, self.count)
        if distributed.rank() == 0:
            self._batch = next(open_source(self.data, self.count, self.count, 0, 1).batches())
            directory = os.path.join(self.log_dir, "validation")
            self._file = EventFile.shared(directory, self._step(), self.params)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        due = self.every(epoch) if callable(self.every) else (epoch + 1) % self.every == 0
        if self._file is not None and due:
            with self.validated_weights():
                png = inspection.figure_to_png(self._figure())
            self._file.image("adversarial_images", png, self._step())

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._file is not None:
            self._file.close()
        self._evaluator = self._batch = self._file = None  # and with them the graphs

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _figure(self):
        images, labels, indices = self._batch
        evaluator, attack = self._evaluator, self.attack
        [network] = evaluator.networks
        clean = tf.cast(images, tf.float32)
        before = network.predict(clean).numpy()
        [(_, adversarial, goals)] = evaluator.trajectory(
            network, clean, labels, indices, attack.effective_step_size, evaluator.num_steps
        )
        after = network.predict(adversarial).numpy()
        real = np.flatnonzero(indices >= 0)
        captions = [
            (
                f"label {self._name(labels[i])}\npredicted {self._name(before[i])}",
                f"predicted {self._name(after[i])}"
                + (f"\ntarget {self._name(goals[i])}" if attack.targeted else ""),
            )
            for i in real
        ]
        clean, adversarial = clean.numpy()[real], adversarial.numpy()[real]
        epsilon = attack.epsilon
        if attack.norm == "l2":  # a length of the whole change: show its largest pixel
            low, high = evaluator.value_range
            epsilon = float(f"{255 * np.abs(adversarial - clean).max() / (high - low):.3g}")
        return inspection.pairs_figure(clean, adversarial, epsilon, captions, evaluator.value_range)

    def _name(self, label):
        # The first of ImageNet's synonyms.
        return str(label) if self.class_names is None else self.class_names[label].split(",")[0]
