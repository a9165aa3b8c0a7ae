"""From settings to objects: data set, network, attack, optimizer, callbacks."""

import functools
import pkgutil
import signal

import keras
import tensorflow as tf

from tfadv import attacks, callbacks, data
from tfadv.programs.settings import EVALUATE, TRAIN, Role, default, names
from tfadv.tables import attacks as table
from tfadv.tables import networks
from tfadv.training.schedules import WarmupExponential, WarmupSteps


def dataset(settings):
    """The data set of `--dataset`, `--data_dir` and `--image_size`."""
    return data.load(
        settings.dataset,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        seed=settings.seed,
    )


def network(settings, dataset):
    """The network of `--network`, `--depth`, `--norm` and so on, for a data set."""
    make = pkgutil.resolve_name(networks.NETWORKS[settings.network].function)
    height, width, channels = dataset.image_shape
    options = {"width": settings.width, "blocks": settings.blocks}
    return make(
        settings.depth,
        norm=settings.norm,
        num_classes=dataset.num_classes,
        image_size=(height, width),
        channels=channels,
        weight_decay=settings.weight_decay,
        norm_options={"affine": settings.affine} if settings.norm == "mbn" else None,
        seed=settings.seed,
        **{name: value for name, value in options.items() if value is not None},
    )


def attack(settings, num_steps, **changes):
    """The attack of `--attack`, with those of the settings that it takes.

    Args:
        settings: Namespace, of `tfadv.train` or `tfadv.evaluate`.
        num_steps: The number of steps, if the attack has steps.
        **changes: Arguments of the attack with other values than in the settings.

    Returns:
        A `tfadv.attacks.Attack`.
    """
    given = {
        **vars(settings),
        "num_steps": num_steps,
        "loss": settings.attack_loss,
        "jit_compile": {"auto": None, "on": True, "off": False}[settings.attack_xla],
    }
    return attacks.make(settings.attack, {**given, **changes})


def evaluation_steps(settings, num_steps):
    """The `num_steps` of an evaluation: None for an attack without steps."""
    return num_steps if table.ATTACKS[settings.attack].has_steps else None


def compile_model(model, settings, steps_per_epoch):
    """Compiles a network with its optimizer and the paper's loss and metrics."""
    # Keras smooths the labels of this loss only, which takes them one-hot.
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=settings.label_smoothing
    )
    model.compile(
        optimizer=optimizer(settings, steps_per_epoch),
        loss=loss,
        metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(5, name="top5_accuracy")],
        jit_compile=False,
    )


def optimizer(settings, steps_per_epoch):
    """The optimizer of `--optimizer`, with the learning rate of `--decay` and so on.

    Args:
        settings: Namespace, of `tfadv.train`.
        steps_per_epoch: Integer, updates.

    Returns:
        A Keras optimizer; under float16 one that scales the loss.
    """
    schedule = _SCHEDULES[settings.decay](settings)
    made = _OPTIMIZERS[settings.optimizer](
        settings,
        schedule(
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=settings.warmup_epochs,
        ),
    )
    if settings.dtype == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(made)
    return made


def optimizer_text(settings):
    """The optimizer and its learning rate in words."""
    epochs = ", ".join(map(str, settings.decay_epochs))
    fall = {
        "step": f"divided by 10 at epochs {epochs}" if epochs else "constant",
        "exponential": f"times {settings.decay_rate:g} every {settings.decay_every} epochs",
    }[settings.decay]
    return f"{settings.optimizer}, learning rate {settings.learning_rate:g} for 256 images, {fall}"


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
    # Epsilon is under the root, as TensorFlow 1's; whose mean square began at 1, where this one
    # begins at 0.
    "rmsprop": lambda settings, rate: keras.optimizers.RMSprop(
        rate,
        rho=settings.rmsprop_rho,
        momentum=settings.momentum,
        epsilon=settings.rmsprop_epsilon,
    ),
}


def train_batches(dataset, settings, steps_per_epoch, worker_batch, rank, size, progress):
    """One worker's endless batches of (images, one-hot labels), from where a training goes on."""
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


def training_callbacks(settings, dataset, run, accumulation_steps, progress):
    """The callbacks of a run, in the order in which they build on each other."""
    found = [
        callbacks.AdversarialTraining(
            attack(settings, settings.num_steps) if settings.adversarial else None,
            clean_ratio=settings.clean_ratio,
            clean_weight=settings.clean_weight,
            pairing_weight=settings.pairing_weight,
            accumulation_steps=accumulation_steps,
            seed=settings.seed,
            rematerialize=settings.rematerialize,
            attack_precision=settings.attack_precision,
            compression=settings.gradient_compression,
            max_bad_steps=settings.max_bad_steps,
            progress=progress,
            stall_seconds=settings.stall_seconds,
        )
    ]
    if settings.running_statistics:
        found.append(callbacks.RunningStatistics(settings.running_statistics))
    found += _evaluations(settings, dataset)
    shown = attack(settings, settings.num_steps, start_from_clean=0.0)
    if settings.image_pairs and settings.adversarial and shown.num_steps != 0:
        found.append(
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
        found.append(callbacks.BatchNormStatistics(run.tensorboard))
    # The best is the most robust; without evaluations there is none.
    numbers = settings.eval_num_steps or settings.strong_eval_num_steps or (0,)
    strongest = table.key(settings.attack, max(numbers))
    checkpoint = callbacks.Checkpoint(
        run.checkpoints,
        monitor=f"val_{strongest}_accuracy",
        keep=settings.keep_checkpoints,
        minutes=settings.checkpoint_minutes or None,
        long_ends=lambda epoch: any(
            steps and due(epoch) for due, steps in evaluations_due(settings)
        ),
    )
    return [
        *found,
        callbacks.SameWeights(),
        # An epoch of ImageNet is 313 updates of 4096 images; a small run's has no point within.
        callbacks.TrainingScalars(run.tensorboard, update_freq=100),
        callbacks.HyperParameters(
            run.tensorboard,
            {name: getattr(settings, name) for name in names(TRAIN, Role.SHOWN)},
            _metrics(settings),
        ),
        callbacks.RunLog(run.log),
        checkpoint,
        # Ctrl-C as well: a training at a terminal has as much to lose.
        callbacks.Preemption(checkpoint, (signal.SIGTERM, signal.SIGINT)),
    ]


def _often(settings):
    return lambda epoch: (epoch + 1) % settings.eval_every == 0 or epoch == settings.epochs - 1


def evaluations_due(settings):
    """The evaluations in training: pairs of a function of the epoch, from 0, and numbers of steps.

    An evaluation with an empty list of steps does not take place. With an attack that has no steps
    both would have the same results, so only one of them takes place.
    """
    last = settings.epochs - 1
    strong = settings.strong_eval_num_steps
    if settings.eval_num_steps and not table.ATTACKS[settings.attack].has_steps:
        strong = ()

    def seldom(epoch):
        return (epoch + 1) % settings.strong_eval_every == 0 or epoch > last - 5

    return (
        (_often(settings), settings.eval_num_steps),
        (seldom, strong),
    )


def _evaluations(settings, dataset):
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
            )


def _metrics(settings):
    """Sub-runs and tags of what the HPARAMS tab shows beside them."""
    # TensorBoard takes them from one run for all, so those of tfadv.evaluate, which are comparable
    # over runs, are there from the start, with the paper's numbers of steps.
    paper = default(EVALUATE, "num_steps")
    trained = sorted({*settings.eval_num_steps, *settings.strong_eval_num_steps})
    found = [("train", "loss"), ("train", "accuracy"), ("train", "attack_success")]
    found += [(domain, name) for domain in ("adv", "clean") for name in ("loss", "accuracy")]
    for run, numbers in (("validation", trained), ("evaluation", paper)):
        kinds = dict.fromkeys(["clean", *(table.key(settings.attack, n) for n in numbers)])
        found += [(run, f"robust_accuracy/{kind}") for kind in kinds]
    return [*found, ("evaluation/clean", "robust_accuracy/clean")]
