"""The same targeted PGD in tfadv and in three other libraries, from the same starts.

The others draw their own starts, so each gets ours at the one place where it draws: foolbox in
`get_random_start`, which users may override; Adversarial Robustness Toolbox (ART) at its first
step; cleverhans through its function `random_lp_vector`. All three clip a start to the pixel range
and the pipeline does not, so images must stay epsilon away from the ends of the range. Their loops
are their own. tfadv's time includes drawing the start, and the others' does not.
"""

import dataclasses
import importlib
from unittest import mock

import numpy as np
import tensorflow as tf

from tfadv import attacks, models

FLOOR = "floor"
# Name -> arguments of `models.Frozen`.
OURS = {
    "tfadv float32": {"precision": "float32", "fold": False},
    "tfadv float32 folded": {"precision": "float32", "fold": True},
    "tfadv bfloat16": {"precision": "bfloat16", "fold": False},
    "tfadv bfloat16 folded": {"precision": "bfloat16", "fold": True},
    "tfadv float16 folded": {"precision": "float16", "fold": True},
}
SIXTEEN_BITS = ("tfadv bfloat16", "tfadv float16")  # prefixes of names in `OURS`


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images, their labels, and the attack's start and targets, which follow from `seed`."""

    images: tf.Tensor
    labels: tf.Tensor
    start: tf.Tensor
    targets: tf.Tensor
    seed: tuple


@dataclasses.dataclass(frozen=True)
class Task:
    """The task of all contestants.

    Args:
        attack: `tfadv.attacks.PGD`, targeted.
        model: The network that tfadv attacks.
        plain: The network that other libraries attack: `model`, or for a mixture its adv branch in
            Keras's own layers.
        value_range: Range of the network's images, (low, high).
        num_classes: Number of the network's classes.
    """

    attack: attacks.PGD
    model: object
    plain: object
    value_range: tuple
    num_classes: int

    def batch(self, images, labels, number):
        """Returns a batch whose start and targets are drawn with the seed (0, number)."""
        seed = (0, number)
        start, targets = self.attack.start(images, labels, self.num_classes, seed, self.value_range)
        return Batch(images, labels, start, targets, seed)


def floor(task):
    """Returns a function that computes a forward pass and a gradient for each step, compiled."""

    @tf.function(autograph=False)
    def gradient(images, targets):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = task.plain(images, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return tape.gradient(loss, images)

    def run(batch):
        for _ in range(task.attack.num_steps):
            slope = gradient(batch.start, batch.targets)
        return slope

    return run


def ours(task, precision, fold):
    network = models.Frozen(task.model, domain="adv", precision=precision, fold=fold)

    def run(batch):
        return task.attack(
            network,
            batch.images,
            batch.labels,
            value_range=task.value_range,
            seed=batch.seed,
            targets=batch.targets,
            num_classes=task.num_classes,
        )

    return run


def cleverhans(task):
    module = importlib.import_module("cleverhans.tf2.attacks.projected_gradient_descent")
    low, high = task.value_range

    def run(batch):
        # Replaces the noise that it would draw.
        noise = batch.start - batch.images
        with mock.patch.object(module, "random_lp_vector", lambda *args, **kwargs: noise):
            return module.projected_gradient_descent(
                task.plain,
                batch.images,
                task.attack.epsilon,
                task.attack.effective_step_size,
                task.attack.num_steps,
                np.inf,
                clip_min=low,
                clip_max=high,
                y=batch.targets,
                targeted=True,
                rand_init=True,
            )

    return run


def foolbox(task, compiled=False):
    import eagerpy
    from foolbox import TensorFlowModel, attacks, criteria

    class FromStart(attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            return eagerpy.astensor(self.start)

    network = task.plain
    if compiled:
        network = tf.function(lambda x: task.plain(x, training=False), autograph=False)
    network = TensorFlowModel(network, bounds=task.value_range)
    attack = FromStart(
        abs_stepsize=task.attack.effective_step_size, steps=task.attack.num_steps, random_start=True
    )

    def run(batch):
        attack.start = batch.start
        aim = criteria.TargetedMisclassification(batch.targets)
        # `run` only attacks; a call would also evaluate which images are misled.
        return attack.run(network, batch.images, aim, epsilon=task.attack.epsilon)

    return run


def art(task, compiled=False):
    import keras
    from art.attacks.evasion.projected_gradient_descent import (
        projected_gradient_descent_tensorflow_v2 as descent,
    )
    from art.estimators.classification import TensorFlowV2Classifier

    class FromStart(descent.ProjectedGradientDescentTensorFlowV2):
        def _compute_tf(self, x, *args, **kwargs):
            if self._i_max_iter == 0:
                x = self.start
            return super()._compute_tf(x, *args, **kwargs)

    network = task.plain
    if compiled:
        network = tf.function(
            lambda x, training=False: task.plain(x, training=training), autograph=False
        )
    classifier = TensorFlowV2Classifier(
        network,
        nb_classes=task.num_classes,
        input_shape=task.plain.input_shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=task.value_range,
    )
    attack = FromStart(
        classifier,
        eps=task.attack.epsilon,
        eps_step=task.attack.effective_step_size,
        max_iter=task.attack.num_steps,
        targeted=True,
        verbose=False,
    )
    # A targeted attack takes one-hot targets, and images as NumPy arrays.
    identity = np.eye(task.num_classes, dtype=np.float32)

    def run(batch):
        attack.start = batch.start
        attack.set_params(batch_size=len(batch.images))
        return attack.generate(batch.images.numpy(), identity[batch.targets.numpy()])

    return run


def contestants(task):
    """Dictionary, name -> function of a `Batch` that returns adversarial images (floor: slopes)."""
    return {
        FLOOR: floor(task),
        **{name: ours(task, **options) for name, options in OURS.items()},
        "cleverhans": cleverhans(task),
        "foolbox": foolbox(task),
        "ART": art(task),
        "foolbox, its model in a tf.function": foolbox(task, compiled=True),
        "ART, its model in a tf.function": art(task, compiled=True),
    }
