"""AutoAttack and its parts in tfadv, in the authors' implementation and in ART.

A contestant is a function of images `[count, height, width, channels]` from 0 to 255 and of their
labels, both NumPy arrays. It returns how many images are left right after each part: a dictionary,
name of the part -> number. A part attacks only what those before it left right.

The authors' implementation, "the original", is written in Torch, which is imported here alone. It
attacks through a bridge: a function of Torch whose passes forward and back are TensorFlow's, both
compiled. It must lie in a folder outside of this repository, which it is no part of.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import sys

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from tfadv import attacks, evaluation

VALUE_RANGE = (0.0, 255.0)
PARTS = ("APGD-CE", "APGD-T", "FAB-T", "Square")  # of the standard version
_NAMES = {name: name.lower() for name in (*PARTS, "APGD-DLR")}  # the original's
_LOSSES_OF_ART = {"APGD-CE": "cross_entropy", "APGD-DLR": "difference_logits_ratio"}


def add_option(parser):
    """Adds the option `--original` to an `argparse` parser."""
    parser.add_argument(
        "--original",
        default=os.environ.get("AUTO_ATTACK"),
        help="Folder of a clone of fra31/auto-attack, outside of this repository; unless given, "
        "the environment variable AUTO_ATTACK.",
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """The task of all contestants; its defaults are AutoAttack's.

    Args:
        model: A Keras model, images in `VALUE_RANGE` -> logits.
        epsilon: In pixels of 255.
        num_steps: Number of steps of APGD and FAB.
        num_queries: Number of queries of the square attack.
        parts: Names of the attacks: those of `PARTS`, or `"APGD-DLR"`. `-T` has nine targets.
    """

    model: keras.Model
    epsilon: float
    num_steps: int = 100
    num_queries: int = 5000
    parts: tuple = PARTS

    def attack(self):
        """Returns tfadv's attack."""
        members = {
            "APGD-CE": attacks.APGD(self.epsilon, self.num_steps),
            "APGD-DLR": attacks.APGD(self.epsilon, self.num_steps, "dlr"),
            "APGD-T": attacks.APGD(self.epsilon, self.num_steps, "targeted_dlr", 9),
            "FAB-T": attacks.FAB(self.epsilon, self.num_steps, 9),
            "Square": attacks.Square(self.epsilon, self.num_queries),
        }
        return _Ensemble(self.epsilon, [members[part] for part in self.parts])


class _Ensemble(attacks.AutoAttack):
    def __init__(self, epsilon, members):
        super().__init__(epsilon)
        self.members = tuple(members)


def ours(task, batch_size, precision="float32", seed=0):
    """Attacks as `tfadv.evaluate` does: settled images leave the batches, and others fill them."""
    evaluator = evaluation.Evaluator(
        task.model, task.attack(), value_range=VALUE_RANGE, seed=seed, attack_precision=precision
    )

    def run(images, labels):
        return evaluator((images, labels), batch_size)[1].remaining

    return run


def uncompacted(task, batch_size):
    """Attacks batch by batch: each part attacks a whole batch if one of its images is right."""
    attack = task.attack()
    evaluator = evaluation.Evaluator(task.model, attack, value_range=VALUE_RANGE)
    [network] = evaluator.networks

    def run(images, labels):
        right = 0
        for start in range(0, len(images), batch_size):
            batch = tf.constant(images[start : start + batch_size])
            true = tf.constant(labels[start : start + batch_size])
            indices = np.arange(start, start + len(batch))
            keys = np.stack([np.zeros_like(indices), indices], axis=1)  # as in an evaluation
            network.predict(batch)  # which counts its classes
            adversarial = attack(
                network,
                batch,
                true,
                value_range=VALUE_RANGE,
                seed=tf.constant(keys),
                num_classes=network.num_classes,
            )
            right += int(np.sum(network.predict(adversarial) == true))
        return {task.parts[-1]: right}

    return run


def original(task, folder, batch_size, seed=0):
    """Attacks with the authors' implementation, through the bridge.

    Args:
        task: A `Task`.
        folder: The folder that holds their package `autoattack`.
        batch_size: Number of images in its batches.
        seed: What it seeds each of its parts with.
    """
    torch = importlib.import_module("torch")
    network = bridge(task.model)
    shared = dict(eps=task.epsilon / 255, seed=seed, device="cpu")
    with _on_path(folder):
        adversary = importlib.import_module("autoattack").AutoAttack(
            network, verbose=False, **shared
        )
        steps = importlib.import_module("autoattack.autopgd_base")
    # They derive their checkpoints from the number of steps as they are made.
    shared |= dict(n_iter=task.num_steps, logger=adversary.logger)
    adversary.apgd = steps.APGDAttack(network, **shared)
    adversary.apgd_targeted = steps.APGDAttack_targeted(network, **shared)
    adversary.fab.n_iter = task.num_steps
    adversary.square.n_queries = task.num_queries
    adversary.attacks_to_run = [_NAMES[part] for part in task.parts]
    adversary.verbose = True  # it only logs what is left after each part
    low, high = VALUE_RANGE

    def run(images, labels):
        images = (images.astype(np.float32) - low) / (high - low)
        images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        lines = []
        adversary.logger.log = lines.append
        adversarial = adversary.run_standard_evaluation(
            images, torch.from_numpy(np.asarray(labels, np.int64)), bs=batch_size
        )
        distance = 255 * float((adversarial - images).abs().max())
        if distance > 1.001 * task.epsilon:
            raise RuntimeError(f"images must stay within {task.epsilon}; one moved {distance}")
        return remaining_in(lines, task.parts, len(images))

    return run


def remaining_in(lines, parts, count):
    """Reads how many images are left after each part from the original's log; prints its doubts."""
    remaining = dict.fromkeys(parts, 0)  # it stops when none is left
    for line in lines:
        for part in parts:
            reached = re.match(f"robust accuracy after {part}: ([0-9.]+)%", line, re.IGNORECASE)
            if reached:
                remaining[part] = round(float(reached[1]) * count / 100)
        if line.startswith("Warning"):
            print(line, file=sys.stderr)
    return remaining


def bridge(model):
    """Returns a Torch function, images `[batch, channels, height, width]` from 0 to 1 -> logits.

    Its backward pass continues the forward pass and does not repeat it. The weights are constants,
    so that TensorFlow computes no gradient to them.
    """
    torch = importlib.import_module("torch")
    height, width, channels = model.input_shape[1:]
    low, high = VALUE_RANGE

    @tf.function(
        input_signature=[tf.TensorSpec([None, channels, height, width], tf.float32)],
        autograph=False,
    )
    def with_variables(images):
        images = tf.transpose(images, [0, 2, 3, 1]) * (high - low) + low
        return model(images, training=False)

    logits_of = convert_to_constants.convert_variables_to_constants_v2(
        with_variables.get_concrete_function()
    )

    class Logits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            images = tf.constant(images.detach().numpy())
            if not ctx.needs_input_grad[0]:
                [logits] = logits_of(images)
                return torch.from_numpy(logits.numpy())
            with tf.GradientTape() as tape:
                tape.watch(images)
                [logits] = logits_of(images)
            ctx.passed = tape, images, logits
            return torch.from_numpy(logits.numpy())

        @staticmethod
        def backward(ctx, slope):
            tape, images, logits = ctx.passed
            gradient = tape.gradient(logits, images, tf.constant(slope.detach().numpy()))
            return torch.from_numpy(gradient.numpy())

    return Logits.apply


def art(task, batch_size):
    """Attacks with one part of Adversarial Robustness Toolbox (ART).

    It has no targeted difference of logits ratio and no FAB, and its APGD tests the last iterate
    alone. Its model is in a `tf.function`, which makes ART faster.

    Args:
        task: A `Task` whose `parts` are one of `"APGD-CE"`, `"APGD-DLR"` and `"Square"`.
        batch_size: Number of images in its batches.
    """
    from art.attacks import evasion
    from art.estimators.classification import TensorFlowV2Classifier

    [part] = task.parts
    num_classes = task.model.output_shape[-1]
    classifier = TensorFlowV2Classifier(
        tf.function(
            lambda x, training=False: task.model(x, training=training),
            autograph=False,
            reduce_retracing=True,
        ),
        nb_classes=num_classes,
        input_shape=task.model.input_shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=VALUE_RANGE,
    )
    shared = dict(eps=float(task.epsilon), batch_size=batch_size, verbose=False)
    if part == "Square":
        attack = evasion.SquareAttack(classifier, max_iter=task.num_queries, **shared)
    else:
        attack = evasion.AutoProjectedGradientDescent(
            classifier,
            eps_step=2.0 * task.epsilon,
            max_iter=task.num_steps,
            nb_random_init=1,
            loss_type=_LOSSES_OF_ART[part],
            **shared,
        )
    identity = np.eye(num_classes, dtype=np.float32)

    def run(images, labels):
        np.random.seed(0)
        adversarial = attack.generate(images, identity[labels])
        predicted = classifier.predict(adversarial, batch_size=batch_size).argmax(axis=-1)
        return {part: int(np.sum(predicted == labels))}

    return run


@contextlib.contextmanager
def _on_path(folder):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
