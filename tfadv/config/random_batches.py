"""Mini-batches as a training makes them, outside of it."""

import tensorflow as tf

from tfadv import models
from tfadv.config import building
from tfadv.training.batches import Mixture, clean_count


def made(trained, model, dataset, number, seed):
    """Random mini-batches of training data, augmented and attacked as in training.

    The model attacks itself as it is, in inference mode and with targets and starts of its own.

    Args:
        trained: Namespace, the settings of a training.
        model: A Keras model of images from 0 to 255.
        dataset: Of the training.
        number: Integer, how many mini-batches.
        seed: Integer, which ones.

    Yields:
        Images, float32 `[batch, height, width, channels]`, adversarial ones first, and their
        domain, as of `tfadv.models.call`.
    """
    attack = building.attack(trained, trained.num_steps) if trained.adversarial else None
    network = models.Frozen(models.logits(model), precision=trained.attack_precision)
    # Of an epoch that training does not reach: in another order, with other changes.
    batches = dataset.train_batches(
        trained.images_per_worker, number, seed=seed, first_epoch=trained.epochs
    )
    for place, (images, labels) in enumerate(batches.take(number)):
        images = tf.cast(images, tf.float32)
        adversarial = None
        if attack is not None:
            adversarial = attack(
                network,
                images,
                labels,
                value_range=(0, 255),
                seed=[seed, place],
                num_classes=dataset.num_classes,
            )
        batch = Mixture(images, adversarial, labels, None, trained.clean_ratio)
        yield batch.images, batch.domain


def description(trained):
    """What such a mini-batch holds, in words."""
    size = trained.images_per_worker
    if not trained.adversarial:
        return f"{size} clean images"
    kept = trained.clean_ratio and clean_count(size, trained.clean_ratio)
    clean = f" and {kept} clean ones" if kept else ""
    return f"{size} adversarial images (PGD-{trained.num_steps}){clean}"
