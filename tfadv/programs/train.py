import os
import sys

import keras
import numpy as np

from tfadv import checkpoint_files, data, distributed, models, watchdog
from tfadv.checkpoint_files import Progress
from tfadv.programs import building, command_lines, exits, rules
from tfadv.training import checkpoints


def prepare(settings, run):
    """Everything of a run up to its first step, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `command_lines.train`.
        run: Its `RunDirectory`.

    Returns:
        A `TrainingRun`.
    """
    distributed.init()
    keras.config.set_dtype_policy(settings.dtype)
    dataset = building.dataset(settings)
    model = building.network(settings, dataset)
    if settings.trainable == "norm":
        models.train_only_normalization(model)
    steps = settings.steps_per_epoch or data.steps_per_epoch(dataset.num_train, settings.batch_size)
    building.compile_model(model, settings, steps)
    # Rank 0 alone has files: all workers begin with its variables, or end with its mistake.
    progress = mistake = None
    if distributed.rank() == 0:
        try:
            progress = _begin(settings, run, model)
        except OSError as error:
            mistake = error
        except ValueError as error:
            mistake = ValueError(str(error))  # not all of its kinds can be sent
    progress, mistake = distributed.broadcast_object((progress, mistake))
    if mistake is not None:
        raise mistake
    return TrainingRun(settings, run, dataset, model, steps, progress)


def _begin(settings, run, model):
    """Gives the network the weights that it begins with, and the run its directory.

    Returns:
        The `Progress` that it goes on from.
    """
    progress = Progress()
    path = checkpoint_files.newest(run.checkpoints, _report) if settings.resume else None
    if path is not None:
        progress = checkpoints.restore(model, path)
    elif settings.init_from:
        checkpoints.initialize(model, command_lines.initial_model(settings))
    # At last: what is refused must not leave a directory that others' flags cannot use.
    run.open(settings)
    return progress


def _report(text):
    print(f"tfadv.train: {text}", file=sys.stderr, flush=True)


class TrainingRun:
    """A run of `tfadv.train`, ready to start."""

    def __init__(self, settings, run, dataset, model, steps_per_epoch, progress):
        self.settings = settings
        self.directory = run
        self.dataset = dataset
        self.model = model
        self.steps_per_epoch = steps_per_epoch
        self.progress = progress

    def run(self):
        """Trains to the end and saves the model."""
        settings, rank, size = self.settings, distributed.rank(), distributed.size()
        parts = rules.accumulation_steps(settings)
        self._say(self._description(parts))
        batches = building.train_batches(
            self.dataset,
            settings,
            self.steps_per_epoch,
            settings.images_per_worker * parts,
            rank,
            size,
            self.progress,
        )
        watch = watchdog.watch(settings.stall_seconds, self.directory.stalled, "train")
        with exits.input_errors("train", self._last_checkpoint), watch:
            self.model.fit(
                batches,
                epochs=settings.epochs,
                initial_epoch=self.progress.epoch,
                steps_per_epoch=self.steps_per_epoch,
                callbacks=building.training_callbacks(
                    settings, self.dataset, self.directory, parts, self.progress
                ),
                shuffle=False,  # the batches come shuffled, by seed and epoch
                verbose=_verbosity() if rank == 0 else 0,
            )
            if rank == 0:
                finished = Progress(settings.epochs, 0, size)
                checkpoints.save(self.model, self.directory.model, finished)
                self._draw()
        self._say(
            f"model:       {self.directory.model}\n"
            f"TensorBoard: tensorboard --logdir {self.directory.path.parent}"
        )
        self.directory.close()

    def _last_checkpoint(self):
        found = list(checkpoint_files.find(self.directory.checkpoints).values())
        return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"

    def _draw(self):
        from tfadv import inspection

        if models.mixtures(self.model):
            figure = inspection.figure5(self.model, seed=self.settings.seed)
            self.directory.statistics.write_bytes(inspection.figure_to_png(figure))
            self._say(f"statistics:  {self.directory.statistics}")

    def _description(self, parts):
        settings, size = self.settings, distributed.size()
        if settings.adversarial:
            attack = building.attack(settings, settings.num_steps)
            kind = "targeted" if attack.targeted else "untargeted"
            step_size = attack.effective_step_size
            step = "" if step_size is None else f", step size {step_size:g}"
            ratio = f"{100 * settings.clean_ratio:g}% clean"
            strategy = (
                f"100% adv + {ratio}, {kind} {attack.name}, epsilon {attack.epsilon:g}{step} "
                "(pixels of 255)"
            )
        else:
            strategy = "0% adv + 100% clean"
        if settings.init_from:
            what = "the normalization of " if settings.trainable == "norm" else ""
            strategy += f"; trains {what}{settings.init_from}"
        count = int(sum(np.prod(v.shape) for v in self.model.trainable_variables))
        start = f", continued after {self.progress}" if str(self.progress) else ""
        if settings.resume and not start:
            start = ", from the beginning: it holds no checkpoint to resume from"
            if checkpoint_files.find(self.directory.checkpoints):
                start = ", resumed before the first update"
        if self.progress.epoch >= settings.epochs:
            start += ", to its end: nothing is left to train"
        before = self.progress.workers
        if str(self.progress) and before != size:
            start += f"\nworkers:     {size}, and {before} before: {self._other_workers()}"
        return (
            f"run:         {self.directory.path}{start}\n"
            f"data:        {self.dataset.name}, {self.dataset.num_train} images of "
            f"{'x'.join(map(str, self.dataset.image_shape))}, {self.dataset.num_classes} classes\n"
            f"network:     {self.model.name}, norm {settings.norm}, {count:,} parameters"
            f"{' that train' if settings.trainable == 'norm' else ''}\n"
            f"strategy:    {strategy}\n"
            f"optimizer:   {building.optimizer_text(settings)}\n"
            f"batch:       {settings.batch_size} images = {size} workers x "
            f"{settings.images_per_worker} images x {parts} accumulated steps; "
            f"{self.steps_per_epoch} updates an epoch, {settings.epochs} epochs"
        )

    def _other_workers(self):
        """What another number of workers than before changes."""
        bits = f"the bits are not those of {self.progress.workers} to the end"
        if self.dataset.reaches_any:
            return f"updates take the same images, in other mini-batches, and {bits}"
        this = ", of this one some twice and some never" if self.progress.step else ""
        return f"epochs take the same images{this}, in other updates, and {bits}"

    def _say(self, text):
        if distributed.rank() == 0:
            print(text, flush=True)


def _verbosity():
    """Keras's bar on a terminal, which the launcher may pass on; a line an epoch elsewhere."""
    return 1 if "TFADV_COLUMNS" in os.environ or sys.stdout.isatty() else 2
