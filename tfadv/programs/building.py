"""Builds what settings describe: data set, network, attack, optimizer, callbacks."""

import functools
import os
import pkgutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from tfadv import attacks, callbacks, data, models
from tfadv.checkpoint_files import Progress
from tfadv.programs.run_directory import RunDirectory
from tfadv.settings import EVALUATE, TRAIN, Role, default, names
from tfadv.tables import attacks as attack_table
from tfadv.tables import networks
from tfadv.training.schedules import WarmupExponential, WarmupSteps


def dataset(settings: SimpleNamespace) -> Any:
    """The data set of `--dataset`, `--data_dir`, `--image_size` and, if there, `--image_names`."""
    options: dict[str, Any] = {}
    if getattr(settings, "image_names", None):
        options["validation_names"] = image_names(settings.image_names)
    if getattr(settings, "validation_resize", "bicubic") != "bicubic":
        options["validation_resize"] = settings.validation_resize
    return data.load(
        settings.dataset,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        seed=settings.seed,
        **options,
    )


def image_names(path: str | os.PathLike) -> list[str]:
    """The names in the file of `--image_names`, one a line."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def network(settings: SimpleNamespace, dataset: Any) -> keras.Model:
    """The network of `--network`, `--depth`, `--norm` and so on, for a data set."""
    make = pkgutil.resolve_name(networks.NETWORKS[settings.network].function)
    height, width, channels = dataset.image_shape
    options = {"width": settings.width, "blocks": settings.blocks}
    mixture = {"affine": settings.affine, "statistics": settings.statistics}
    return make(
        settings.depth,
        norm=settings.norm,
        num_classes=dataset.num_classes,
        image_size=(height, width),
        channels=channels,
        weight_decay=settings.weight_decay,
        norm_options=mixture if settings.norm == "mbn" else None,
        seed=settings.seed,
        **{name: value for name, value in options.items() if value is not None},
    )


def classifier(
    path: str | os.PathLike, value_range: tuple | None = None, compile: bool = False
) -> keras.Model:
    """Loads a classifier of RGB or gray images from 0 to 255, as the data sets have them.

    Args:
        path: A `.keras` file.
        value_range: `(low, high)` of the images, as the user states it; None reads the contract.
        compile: Whether to load the optimizer and the loss as well, if the file has them.

    Raises:
        ValueError: If the model does not load, or takes other images.
    """
    model = models.load(path, compile)
    models.check_classifier(model)
    contract = models.contract(model)
    if contract is not None and contract.channel_order == "BGR":
        raise ValueError(f"model must take RGB or gray images; the contract of {path} says BGR")
    limits = models.value_range(model, value_range)
    if limits != (0.0, 255.0):
        raise ValueError(f"model must take images of 0 to 255; {path} takes {limits}")
    return model


def attack(settings: SimpleNamespace, num_steps: int, **changes: Any) -> attacks.Attack:
    """The attack of `--attack`, with the settings that it has.

    Args:
        settings: The settings of a training or an evaluation.
        num_steps: The number of steps, if the attack has steps.
        **changes: Arguments of the attack with other values than in the settings.
    """
    given = {
        **vars(settings),
        "num_steps": num_steps,
        "loss": settings.attack_loss,
        "norm": settings.attack_norm,  # `norm` is the normalization
        "jit_compile": jit_compile(settings.attack_xla),
    }
    return attacks.make(settings.attack, {**given, **changes})


def jit_compile(choice: str) -> bool | None:
    """`--attack_xla` and `--step_xla` as Keras writes them, with None for auto."""
    return {"auto": None, "on": True, "off": False}[choice]


def evaluation_steps(
    settings: SimpleNamespace, num_steps: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The `num_steps` of an evaluation: None for an attack without steps."""
    return num_steps if attack_table.ATTACKS[settings.attack].has_steps else None


def compile_model(model: keras.Model, settings: SimpleNamespace, steps_per_epoch: int) -> None:
    """Compiles a network with its optimizer and the paper's loss and metrics."""
    # Keras smooths labels only in this loss, which takes them one-hot.
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=settings.label_smoothing
    )
    model.compile(
        optimizer=optimizer(settings, steps_per_epoch),
        loss=loss,
        metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(5, name="top5_accuracy")],
        jit_compile=False,
    )


def optimizer(settings: SimpleNamespace, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of `--optimizer`, with the learning rate of `--decay` and so on.

    Under mixed_float16 it scales the loss.
    """
    schedule = _SCHEDULES[settings.decay](settings)
    rate = schedule(
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=settings.warmup_epochs,
    )
    optimizer = _OPTIMIZERS[settings.optimizer](settings, rate)
    if settings.dtype == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


_SCHEDULES = {
    "step": lambda settings: functools.partial(WarmupSteps, decay_epochs=settings.decay_epochs),
    "exponential": lambda settings: functools.partial(
        WarmupExponential, decay_rate=settings.decay_rate, decay_every=settings.decay_every
    ),
}

_OPTIMIZERS = {
    "sgd": lambda settings, rate: keras.optimizers.SGD(
        rate, momentum=settings.momentum, nesterov=True
    ),
    # Epsilon is under the root, as in TensorFlow 1, where the mean square started at 1 and not,
    # as here, at 0.
    "rmsprop": lambda settings, rate: keras.optimizers.RMSprop(
        rate,
        rho=settings.rmsprop_rho,
        momentum=settings.momentum,
        epsilon=settings.rmsprop_epsilon,
    ),
}


def train_batches(
    dataset: Any,
    settings: SimpleNamespace,
    steps_per_epoch: int,
    worker_batch: int,
    rank: int,
    size: int,
    progress: Progress,
) -> tf.data.Dataset:
    """One worker's endless batches of (images, one-hot labels), from where a training continues."""
    batches = dataset.train_batches(
        worker_batch,
        steps_per_epoch,
        rank=rank,
        size=size,
        seed=settings.seed,
        first_epoch=progress.epoch,
        first_step=progress.step,
        max_bad_images=settings.max_bad_images,
    )
    return batches.map(lambda images, labels: (images, tf.one_hot(labels, dataset.num_classes)))


def training_callbacks(
    settings: SimpleNamespace,
    dataset: Any,
    run: RunDirectory,
    accumulation_steps: int,
    progress: Progress,
) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, in the order in which they build on each other."""
    training = [
        callbacks.AdversarialTraining(
            attack(settings, settings.num_steps) if settings.adversarial else None,
            clean_ratio=settings.clean_ratio,
            clean_weight=settings.clean_weight,
            pairing_weight=settings.pairing_weight,
            batch_statistics=settings.batch_statistics,
            accumulation_steps=accumulation_steps,
            attack_parts=settings.attack_parts,
            seed=settings.seed,
            rematerialize=settings.rematerialize,
            attack_precision=settings.attack_precision,
            jit_compile=jit_compile(settings.step_xla),
            compression=settings.gradient_compression,
            max_bad_steps=settings.max_bad_steps,
            progress=progress,
            stall_seconds=settings.stall_seconds,
        )
    ]
    if settings.running_statistics:
        training.append(callbacks.RunningStatistics(settings.running_statistics))
    table = callbacks.EpochTable(_columns(settings))
    training += _evaluations(settings, dataset, table.evaluating)
    shown = attack(settings, settings.num_steps, start_from_clean=0.0)
    if settings.image_pairs and settings.adversarial and shown.num_steps != 0:
        training.append(
            callbacks.AdversarialImages(
                run.tensorboard,
                dataset,
                shown,
                count=settings.image_pairs,
                every=_often(settings),
                seed=settings.seed,
                class_names=dataset.class_names,
            )
        )
    if settings.norm in ("bn", "mbn"):
        training.append(callbacks.BatchNormStatistics(run.tensorboard))
    # The best checkpoint is the most robust; without evaluations there is none.
    numbers = settings.eval_num_steps or settings.strong_eval_num_steps or (0,)
    checkpoint = callbacks.Checkpoint(
        run.checkpoints,
        monitor=f"val_{attack_table.key(settings.attack, max(numbers))}_accuracy",
        keep=settings.keep_checkpoints,
        minutes=settings.checkpoint_minutes or None,
        long_ends=lambda epoch: any(
            steps and due(epoch) for due, steps in evaluations_due(settings)
        ),
    )
    return [
        *training,
        callbacks.SameWeights(),
        # An epoch of ImageNet has 313 updates of 4096 images; that of a small run is one point.
        callbacks.TrainingScalars(run.tensorboard, update_freq=100),
        callbacks.HyperParameters(
            run.tensorboard,
            {name: getattr(settings, name) for name in names(TRAIN, Role.SHOWN)},
            _metrics(settings),
            names(TRAIN, Role.FIRST),
        ),
        callbacks.RunLog(run.log, print_time_left=False),
        table,
        checkpoint,
        # Ctrl-C too, since a training in a terminal has as much to lose.
        callbacks.Preemption(checkpoint, (signal.SIGTERM, signal.SIGINT)),
    ]


def _often(settings):
    return lambda epoch: (epoch + 1) % settings.eval_every == 0 or epoch == settings.epochs - 1


def evaluations_due(
    settings: SimpleNamespace,
) -> tuple[tuple[Callable[[int], bool], tuple[int, ...]], ...]:
    """The evaluations in training: pairs of a function of the epoch, from 0, and numbers of steps.

    An evaluation with an empty list of steps does not take place. With an attack that has no steps
    both would have the same results, so only one of them takes place.
    """
    last = settings.epochs - 1
    strong = settings.strong_eval_num_steps
    if settings.eval_num_steps and not attack_table.ATTACKS[settings.attack].has_steps:
        strong = ()

    def seldom(epoch):
        return (epoch + 1) % settings.strong_eval_every == 0 or epoch > last - 5

    return (
        (_often(settings), settings.eval_num_steps),
        (seldom, strong),
    )


def _columns(settings):
    """The names of the logs that the table of epochs has columns for."""
    yield from ("loss", "top5_accuracy")
    if settings.adversarial:
        yield from ("adv_accuracy", "attack_success")
    if settings.clean_ratio or not settings.adversarial:
        yield "clean_accuracy"
    for _, num_steps in evaluations_due(settings):
        for key in ("clean", *(attack_table.key(settings.attack, n) for n in num_steps)):
            if num_steps:
                yield f"val_{key}_accuracy"


def _evaluations(settings, dataset, progress):
    for due, num_steps in evaluations_due(settings):
        if num_steps:
            yield callbacks.RobustEvaluation(
                dataset,
                # Evaluated from random starts alone (Section 3).
                attack(settings, max(num_steps), start_from_clean=0.0),
                num_steps=evaluation_steps(settings, num_steps),
                every=due,
                batch_size=settings.images_per_worker,
                limit=settings.eval_limit,
                seed=settings.seed,
                progress=progress,
            )


def _metrics(settings):
    """The (run, tag) pairs that the HPARAMS tab shows beside the settings."""
    # TensorBoard takes the metrics of one run for all. So those of tfadv.evaluate, with the paper's
    # numbers of steps, are listed from the start: they compare runs.
    in_training = {*settings.eval_num_steps, *settings.strong_eval_num_steps}
    metrics = []
    for run, numbers in (
        ("validation", in_training),
        ("evaluation", default(EVALUATE, "num_steps")),
    ):
        # The strongest first, since it says what a network withstands.
        strongest = sorted(numbers, reverse=True)
        kinds = dict.fromkeys([attack_table.key(settings.attack, n) for n in strongest] + ["clean"])
        metrics += [(run, f"accuracy/{kind}") for kind in kinds]
    metrics.append(("evaluation/clean_branch", "accuracy/clean"))
    metrics += [("train", name) for name in ("loss", "accuracy", "attack_success")]
    return metrics + [
        (f"train/{domain}", name) for domain in ("adv", "clean") for name in ("loss", "accuracy")
    ]
