import os

import numpy as np

from tfadv import arguments, distributed, inspection
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.event_files import EventFile, read_scalars
from tfadv.inspection import figures

_ARRAYS = ("moving_mean", "moving_variance", "gamma", "beta")


class BatchNormStatistics(ValidatedWeights):
    """Writes the variables of batch normalization to TensorBoard, by layer and domain.

    Each branch of the mixtures has a TensorBoard run, so that the two domains of a layer share a
    chart. They are the runs in which `TrainingScalars` shows the losses of the same domains:

    - `{log_dir}/train/adv` and `{log_dir}/train/clean`: the branches of mixtures
    - `{log_dir}/train`: plain batch normalization, tfadv's or Keras's, and what compares the two
      domains

    with these tags, where `{path}` is the path of the layer (see `tfadv.inspection.statistics`):

    - histograms `moving_mean/{path}`, `moving_variance/{path}`, `gamma/{path}`, `beta/{path}`
    - scalars `mean_moving_mean/{path}` and `mean_moving_variance/{path}`, means over the channels
    - scalars `domain_distance/{path}`, and `mean_domain_distance` over all mixtures of the model,
      including those without charts (`tfadv.inspection.distance`)
    - image `statistics/difference_of_branches`: the two sets of statistics of one mixture (the
      paper's Figure 5)

    Rank 0 writes alone, at the end of epochs and of the training. The step is the number of
    updates, `optimizer.iterations`, which a resumed training goes on counting; what a killed
    training wrote after the checkpoint is then struck out. A model without a mixture gets neither
    distances nor the image.

    The cost is bounded: at most `max_layers` layers, spread evenly over the depth from the first to
    the last, have charts. With 32 mixtures these are 256 histograms, 160 scalars and one image. For
    the 641 mixtures of ResNet-638 all of it took 1.7 s of one core, mostly to read the statistics
    of every layer for `mean_domain_distance`.

    Args:
        log_dir: String or path, the directory of the run.
        every: Integer, write after every so many epochs.
        max_layers: Integer, how many layers have charts; a mixture is one layer.
        layer: String, the path of the mixture in the image; None takes the middle one of the stage
            `res3`, as in the paper, or of the network.
        channels: Integer, how many channels the image shows.
        seed: Integer, the seed of the choice of channels.
        run: String, the run instead of `train`; `""` is `log_dir` itself.

    Raises:
        ValueError: For an argument outside of these rules; and from `fit`, for a model without
            batch normalization, or without a mixture of the path `layer`.

    Example:

    ```python
    mixed = tfadv.models.convert(model, "mbn")
    mixed.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    mixed.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.BatchNormStatistics("runs/x"),
    ])
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        every: int = 1,
        max_layers: int = 32,
        layer: str | None = None,
        channels: int = 20,
        seed: int = 0,
        run: str = "train",
    ) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.every = arguments.integer("every", every, 1)
        self.max_layers = arguments.integer("max_layers", max_layers, 1)
        self.layer = layer
        self.channels = arguments.integer("channels", channels, 1)
        self.seed = arguments.integer("seed", seed, 0)
        self.run = run
        self._files: dict[str | None, EventFile] = {}
        self._first_step = 0
        self._written_step: int | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        # On every rank: an error that stopped rank 0 alone would leave the others waiting.
        records = inspection.statistics(self.model)
        if not records:
            raise ValueError(
                "BatchNormStatistics needs a model with batch normalization; "
                f"{self.model.name!r} has none"
            )
        if self.layer is not None:
            figures.mixture_path(self.model, self.layer)
        self._close()  # of a training that an exception ended
        self._first_step = self._step()
        # Now, so that a directory that cannot be written fails before training.
        if distributed.rank() == 0:
            for domain in {record.domain for record in records} | {None}:
                self._files[domain] = EventFile.shared(
                    os.path.join(self._directory(), domain or ""), self._first_step, self.params
                )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            with self.validated_weights():
                self._write()

    def on_train_end(self, logs: dict | None = None) -> None:
        # A resumed training with nothing left to do: the one before it may have written this.
        if self._step() == self._first_step != self._written_step and self._files:
            tags = read_scalars(self._directory()).get(self._first_step, {})
            if any(tag.startswith(("mean_moving_mean/", "mean_domain")) for tag in tags):
                self._written_step = self._first_step
        self._write()
        self._close()

    def _directory(self):
        return os.path.join(self.log_dir, self.run)

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _write(self):
        step = self._step()
        if not self._files or step == self._written_step:
            return
        records = inspection.statistics(self.model)
        paths = _spread(list(dict.fromkeys(record.path for record in records)), self.max_layers)
        for record in records:
            if record.path in paths:
                _write_record(self._files[record.domain], record, step)
        rows = inspection.distance_table(records)
        if rows:
            self._write_domains(self._files[None], rows, paths, step)
        self._written_step = step

    def _write_domains(self, file, rows, paths, step):
        for row in rows:
            if row.path in paths:
                file.scalar(f"domain_distance/{row.path}", row.distance, step)
        file.scalar(
            "mean_domain_distance",
            np.mean([row.distance for row in rows]),
            step,
            description="Hellinger distance between the statistics of clean and of adversarial "
            "images, mean over all channels and all mixtures: 0 is equal, 1 is disjoint.",
        )
        figure = inspection.figure5(self.model, self.layer, self.channels, self.seed)
        file.image("statistics/difference_of_branches", inspection.figure_to_png(figure), step)

    def _close(self):
        for file in self._files.values():
            file.close()
        self._files = {}
        self._written_step = None


def _write_record(file, record, step):
    for name in _ARRAYS:
        values = getattr(record, name)
        if values is not None:
            finite = values[np.isfinite(values)]
            file.histogram(f"{name}/{record.path}", finite, step)
    for name in ("moving_mean", "moving_variance"):
        file.scalar(f"mean_{name}/{record.path}", getattr(record, name).mean(), step)


def _spread(paths, most):
    """At most `most` of a list, evenly spread, including the first and the last."""
    if len(paths) <= most:
        return set(paths)
    if most == 1:
        return {paths[len(paths) // 2]}
    return {paths[i * (len(paths) - 1) // (most - 1)] for i in range(most)}
