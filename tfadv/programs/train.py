"""`tfadv.train`, from its command line to its last line."""

import contextlib
import dataclasses
import math
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfadv import checkpoint_files, launcher, units
from tfadv.checkpoint_files import Progress
from tfadv.programs import exits, flags, rules
from tfadv.programs.run_directory import RunDirectory
from tfadv.settings import TRAIN, default
from tfadv.tables import attacks, datasets


def parse(arguments: list[str]) -> tuple[SimpleNamespace, RunDirectory]:
    """Parses and checks the command line, without TensorFlow.

    Returns:
        The settings, and the directory of the run.
    """
    settings = flags.parse(
        TRAIN,
        arguments,
        description="Trains an image classifier adversarially. The defaults are the paper's.",
    )
    datasets.check(settings.dataset, settings.data_dir, settings.image_size)
    rules.check_training(settings, launcher.workers())
    if rules.warns():
        rules.warn_of_large_batch(settings)
    rules.warn_of_lengths(settings)
    directory = RunDirectory(settings.run_dir or _default_directory(settings))
    if settings.init_from:
        # It is written to the run's flags, which are read from other directories too.
        settings.init_from = str(Path(settings.init_from).resolve())
        if settings.init_from == str(directory.path.resolve()):
            raise ValueError(
                f"init_from must be another run than run_dir; received {directory.path}"
            )
        # Only rank 0 reads it, and only if there is no checkpoint to resume from.
        if launcher.rank() == 0 and not (settings.resume and directory.saved()):
            initial_model(settings)
    directory.check(settings)
    return settings, directory


def _default_directory(settings):
    """A name that says what a run is: `runs/imagenet2012-resnet152-mbn-pgd30`."""
    parts = [settings.dataset, f"{settings.network}{settings.depth}", settings.norm]
    attack = attacks.key(settings.attack, settings.num_steps)
    parts.append(attack if settings.adversarial else "clean")
    for name in ("clean_ratio", "pairing_weight", "running_statistics"):
        value = getattr(settings, name)
        if value != default(TRAIN, name):
            parts.append(f"{name}{value:g}")
    if settings.batch_statistics != default(TRAIN, "batch_statistics"):
        parts.append(settings.batch_statistics)
    if settings.adversarial and settings.attack_norm != default(TRAIN, "attack_norm"):
        parts.append(settings.attack_norm)
    if settings.optimizer != default(TRAIN, "optimizer"):
        parts.append(settings.optimizer)
    if settings.init_from:
        parts.append(f"{settings.trainable}-from-{Path(settings.init_from).stem}")
    return "runs/" + re.sub(r"[^\w.-]+", "-", "-".join(parts))


def initial_model(settings: SimpleNamespace) -> Path:
    """The `.keras` file that `--init_from`, a file or the directory of a run, names."""
    path = Path(settings.init_from)
    if path.suffix == ".keras" and path.is_file():
        return path
    with contextlib.suppress(ValueError):
        return RunDirectory(path).checkpoint("last")
    raise ValueError(
        f"init_from must be a run with a checkpoint, or a .keras file; received {path}"
    )


def prepare(settings: SimpleNamespace, directory: RunDirectory) -> "TrainingRun":
    """Loads the data, builds the network, and restores what there is to resume from."""
    import keras

    from tfadv import data, distributed, models
    from tfadv.programs import building

    distributed.init()
    keras.config.set_dtype_policy(settings.dtype)
    dataset = building.dataset(settings)
    model = building.network(settings, dataset)
    if settings.trainable == "norm":
        models.train_only_normalization(model)
    steps = settings.steps_per_epoch or data.steps_per_epoch(dataset.num_train, settings.batch_size)
    building.compile_model(model, settings, steps)
    # Only rank 0 has files. The other workers get its variables, or its error, from it.
    progress: Progress | None = None
    error: Exception | None = None
    sign = b""
    if distributed.rank() == 0:
        try:
            progress = _restore(settings, directory, model)
            sign = directory.sign()
        except OSError as reason:
            error = reason
        except ValueError as reason:
            error = ValueError(str(reason))  # not every subclass can be pickled
    progress, error, sign = distributed.broadcast_object((progress, error, sign))
    if error is not None:
        raise error
    newest = max(directory.saved(), default=(0, 0))
    seats = distributed.gather_object((socket.gethostname(), directory.is_signed(sign), newest))
    unshared = _unshared(seats, directory.path, settings.resume)
    if unshared and distributed.rank() == 0:
        _report(unshared)
    attack = building.attack(settings, settings.num_steps) if settings.adversarial else None
    rank, workers = distributed.rank(), distributed.size()
    return TrainingRun(settings, directory, dataset, model, attack, steps, progress, rank, workers)


def _restore(settings, directory, model):
    """Restores the network or initializes it, and locks the directory; returns the `Progress`."""
    from tfadv.training import checkpoints

    progress = Progress()
    path = checkpoint_files.newest(directory.checkpoints, _report) if settings.resume else None
    if path is not None:
        progress = checkpoints.restore(model, path)
    elif settings.init_from:
        checkpoints.initialize(model, initial_model(settings))
    # Last, since a refused run must not leave a directory that the corrected command cannot use.
    directory.open(settings)
    return progress


def _unshared(seats, path, resume):
    """Says in one line which workers do not see the run's directory; None if all do.

    Args:
        seats: For each worker the name of its machine, whether it sees rank 0's directory, and the
            epochs and updates of the newest checkpoint in its own.
        path: Path of the directory.
        resume: Whether the run is to go on from its newest checkpoint.

    Raises:
        ValueError: If rank 0 would go on from another one.
    """
    from tfadv import distributed

    apart = [rank for rank, (_, sees, _) in enumerate(seats) if not sees]
    if not apart:
        return None
    here, _, newest = seats[0]
    best = max(apart, key=lambda rank: seats[rank][2])
    if resume and seats[best][2] > newest:
        raise ValueError(
            f"run_dir must be shared by all machines, or worker 0 must run where it ran before; "
            f"{seats[best][0]} has a newer checkpoint in its own {path} than {here}, where worker "
            "0 runs"
        )
    machines = sorted({seats[rank][0] for rank in apart})
    where = " and ".join(
        f"{distributed.named(rank for rank in apart if seats[rank][0] == machine)} on {machine}"
        for machine in machines
    )
    return (
        f"run_dir {path} is not shared, since {where} cannot see it: checkpoints and logs are on "
        f"{here} alone, where worker 0 must run again to resume"
    )


def _report(text):
    print(f"tfadv.train: {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass
class TrainingRun:
    """A training that is ready to start.

    Attributes:
        settings: The settings.
        directory: The `RunDirectory`.
        dataset: The data set.
        model: The compiled network.
        attack: The attack; None to train on clean images alone.
        steps_per_epoch: The number of updates in an epoch.
        progress: The `Progress` to continue from.
        rank, workers: The number of this worker, and of all.
    """

    settings: SimpleNamespace
    directory: RunDirectory
    dataset: Any
    model: Any
    attack: Any
    steps_per_epoch: int
    progress: Progress
    rank: int
    workers: int

    def run(self) -> None:
        """Trains to the last epoch and saves the model."""
        from tfadv import inspection, models, watchdog
        from tfadv.programs import building
        from tfadv.training import checkpoints

        settings, directory, model = self.settings, self.directory, self.model
        parts = rules.accumulation_steps(settings, self.workers)
        self._say(self._description(parts))
        batches = building.train_batches(
            self.dataset,
            settings,
            self.steps_per_epoch,
            settings.images_per_worker * parts,
            self.rank,
            self.workers,
            self.progress,
        )
        watch = watchdog.watch(settings.stall_seconds, directory.stalled, "train")
        with exits.input_errors("train", self._last_checkpoint), watch:
            model.fit(
                batches,
                epochs=settings.epochs,
                initial_epoch=self.progress.epoch,
                steps_per_epoch=self.steps_per_epoch,
                callbacks=building.training_callbacks(
                    settings, self.dataset, directory, parts, self.progress
                ),
                shuffle=False,  # the batches come shuffled, by seed and epoch
                verbose=0,  # EpochTable prints instead
            )
            if self.rank == 0:
                finished = Progress(settings.epochs, 0, self.workers)
                checkpoints.save(model, directory.model, finished)
                if models.mixtures(model):
                    figure = inspection.figure5(model, seed=settings.seed)
                    directory.statistics.write_bytes(inspection.figure_to_png(figure))
                    self._say(f"statistics:  {directory.statistics}")
        self._say(
            f"model:       {directory.model}\n"
            f"TensorBoard: tensorboard --logdir {directory.path.parent}"
        )
        directory.close()

    def _last_checkpoint(self):
        saved = list(self.directory.saved().values())
        return f"the last checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"

    def _description(self, parts):
        settings = self.settings
        strategy = "0% adv + 100% clean"
        if self.attack is not None:
            kind = "targeted" if self.attack.targeted else "untargeted"
            size = self.attack.effective_step_size
            strategy = (
                f"100% adv + {100 * settings.clean_ratio:g}% clean, {kind} {self.attack.name}, "
                f"epsilon {self.attack.epsilon:g}"
                + ("" if size is None else f", step size {size:g}")
                + (" (pixels of 255)" if self.attack.norm == "linf" else " (L2, images 0 to 1)")
            )
        if settings.init_from:
            part = "the normalization of " if settings.trainable == "norm" else ""
            strategy += f"; trains {part}{settings.init_from}"
        batch = (
            units.count(self.workers, "worker"),
            units.count(settings.images_per_worker, "image"),
            units.count(parts, "accumulated step"),
        )
        count = sum(math.prod(variable.shape) for variable in self.model.trainable_variables)
        return (
            f"run:         {self.directory.path}{self._start()}\n"
            f"data:        {self.dataset.name}, {units.count(self.dataset.num_train, 'image')} of "
            f"{'x'.join(map(str, self.dataset.image_shape))}, {self.dataset.num_classes} classes\n"
            f"network:     {self.model.name}, norm {settings.norm}, {count:,} parameters"
            f"{' that train' if settings.trainable == 'norm' else ''}\n"
            f"strategy:    {strategy}\n"
            f"optimizer:   {_optimizer(settings)}\n"
            f"batch:       {units.count(settings.batch_size, 'image')} = {' x '.join(batch)}; "
            f"{units.count(self.steps_per_epoch, 'update')} an epoch, "
            f"{units.count(settings.epochs, 'epoch')}"
        )

    def _start(self):
        """Describes where the run starts, and what a changed number of workers means for it."""
        progress = self.progress
        start = f", continued after {progress}" if str(progress) else ""
        if self.settings.resume and not start:
            start = ", from the beginning: it holds no checkpoint to resume from"
            if self.directory.saved():
                start = ", resumed before the first update"
        if progress.epoch >= self.settings.epochs:
            start += ", to its end: nothing is left to train"
        if not str(progress) or progress.workers == self.workers:
            return start
        if self.dataset.reaches_any:
            change = "updates take the same images, in other mini-batches,"
        else:
            part = " (in this epoch some twice and some never)" if progress.step else ""
            change = f"epochs take the same images{part}, in other updates,"
        return (
            f"{start}\nworkers:     {self.workers}, and {progress.workers} before: {change} and "
            f"the result is not bit for bit that of {units.count(progress.workers, 'worker')}"
        )

    def _say(self, text):
        if self.rank == 0:
            print(text, flush=True)


def _optimizer(settings):
    epochs = ", ".join(map(str, settings.decay_epochs))
    every = units.count(settings.decay_every, "epoch")
    fall = {
        "step": f"divided by 10 at epochs {epochs}" if epochs else "constant",
        "exponential": f"times {settings.decay_rate:g} every {every}",
    }[settings.decay]
    return f"{settings.optimizer}, learning rate {settings.learning_rate:g} for 256 images, {fall}"
