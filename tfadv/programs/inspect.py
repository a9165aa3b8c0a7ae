"""`tfadv.inspect`, from its command line to its last line."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfadv.programs import exits, flags, rules
from tfadv.programs.run_directory import RunDirectory, check_directory, model_file
from tfadv.settings import INSPECT, TRAIN, Role, names
from tfadv.tables import attacks, datasets

_BATCHES = 2  # as in the paper's Figure 6
_ROWS = 10  # of the printed table of mixtures


def parse(arguments: list[str]) -> tuple[SimpleNamespace, Path, RunDirectory | None]:
    """Parses and checks the command line, without TensorFlow.

    Returns:
        The settings; the file of the model; and its run, or None with `--model`. The settings have
        a further attribute `trained`: the settings of the training, or with `--model` the paper's,
        and the flags that describe mini-batches.
    """
    settings = flags.parse(
        INSPECT,
        arguments,
        description="Looks into the normalization layers of a trained classifier (Figures 5 and "
        "6). Flags of training that are not given are the run's, or with --model the paper's.",
    )
    rules.check_model(settings)
    rules.check_one_process("inspect")
    if settings.model and not settings.output:
        raise ValueError("output must be given with model; received none")
    path, run = model_file(settings)
    settings.trained = flags.parse(TRAIN, []) if run is None else run.settings()
    for name in names(TRAIN, Role.MINI_BATCH):
        if getattr(settings, name) is not None:
            setattr(settings.trained, name, getattr(settings, name))
    if settings.output:
        check_directory("output", settings.output)
    settings.figure6 &= settings.dataset is not None
    if settings.figure6:
        trained = settings.trained
        try:
            datasets.check(trained.dataset, trained.data_dir, trained.image_size)
        except ValueError as error:
            raise ValueError(f"{error}; or leave Figure 6 out with --figure6=false") from None
    return settings, path, run


def prepare(settings: SimpleNamespace, path: Path, run: RunDirectory | None) -> "InspectionRun":
    """Loads the model and the data, and checks that the settings fit both."""
    from tfadv import distributed, evaluation, models
    from tfadv.inspection import figures, layer_statistics
    from tfadv.programs import building

    distributed.init()  # lets TensorFlow take no more of a GPU's memory than it needs
    model = building.classifier(path, settings.value_range, compile=True)
    layers = layer_statistics.normalizations(model)
    if not layers:
        raise ValueError(f"model must have batch normalization; {path} has none")
    if models.mixtures(model):
        layer = figures.mixture_path(model, settings.layer)
        domain = settings.domain
    else:
        layer = figures.layer_path(list(layers), settings.layer)
        domain = None
    dataset = None
    if settings.figure6:
        trained = settings.trained
        dataset = building.dataset(trained)
        models.check_outputs(model, attacked=trained.adversarial)
        evaluation.Evaluator(model, value_range=settings.value_range).open(dataset)
        if not layers[layer].trainable:
            raise ValueError(f"layer must not be frozen, for Figure 6; {layer!r} is")
        if domain == "adv" and not trained.adversarial:
            raise ValueError("domain=adv needs adversarial images; received adversarial=False")
        if domain == "clean" and trained.adversarial and not trained.clean_ratio:
            raise ValueError("domain=clean needs clean images; received clean_ratio=0.0")
    if settings.output or run is None:
        output = Path(settings.output)
        logs = output / "tensorboard"
    else:
        output, logs = run.inspection, run.tensorboard
    output.mkdir(parents=True, exist_ok=True)
    branch = layer, domain
    return InspectionRun(settings, path, model, branch, dataset, output, logs / "inspection")


@dataclasses.dataclass
class InspectionRun:
    """An inspection that is ready to start.

    Attributes:
        settings: The settings, with `trained`.
        path: The file of the model.
        model: The model.
        branch: The layer that the figures show, and its domain, or None for a plain layer.
        dataset: The training data; None leaves Figure 6 out.
        output: The directory for figures and tables.
        logs: The directory for TensorBoard.
    """

    settings: SimpleNamespace
    path: Path
    model: Any
    branch: tuple[str, str | None]
    dataset: Any
    output: Path
    logs: Path

    def run(self) -> None:
        """Measures, draws, prints and writes."""
        from tfadv import callbacks, inspection

        self._sample = {"channels": self.settings.channels, "seed": self.settings.seed}
        self._written: list[Path] = []
        records = inspection.statistics(self.model)
        layers = len({record.path for record in records})
        print(f"{self.path}: {layers} batch normalizations")
        # TensorBoard shows the last inspection, as the files in the output directory do.
        for old in self.logs.rglob("events.out.tfevents.*"):
            old.unlink()
        if getattr(self.model, "optimizer", None) is None:
            self.model.compile("sgd")  # only to have a step, which is 0
        # Histograms, distances and Figure 5 of all layers, as a training writes them of some.
        rows = inspection.distance_table(records)
        shown = self.branch[0] if rows else None
        writer = callbacks.BatchNormStatistics(
            self.logs, max_layers=layers, layer=shown, run="", **self._sample
        )
        writer.set_model(self.model)
        writer.on_train_begin()
        writer.on_train_end()
        if rows:
            self._compare_domains(rows)
        else:
            print("no mixture in it, and so no Figure 5 and no distances between domains")
        if self.dataset is not None:
            with exits.input_errors("inspect"):
                self._compare_batches({(record.path, record.domain): record for record in records})
        elif self.settings.model and not self.settings.dataset:
            print("no dataset was given, and so no Figure 6")
        arrays = ("moving_mean", "moving_variance", "gamma", "beta")
        by_channel = [(record, record.path, record.domain) for record in records]
        self._write_channels("statistics.csv", arrays, by_channel)
        print("written to:", *self._written, f"TensorBoard: {self.logs}", sep="\n  ", flush=True)

    def _compare_domains(self, rows):
        """Prints and writes the table of all mixtures, and draws Figure 5."""
        import numpy as np

        from tfadv import inspection

        print("\ndistance between the domains (Hellinger: 0 is equal, 1 is disjoint):")
        width = max(len(row.path) for row in rows)
        print(f"{'layer':<{width}}  place  distance  adversarial larger: mean  variance")
        for row in rows[:_ROWS]:
            print(
                f"{row.path:<{width}}  {row.position:>5}  {row.distance:8.3g}"
                f"  {100 * row.mean_larger:22.0f}%  {100 * row.variance_larger:7.0f}%"
            )
        if len(rows) > _ROWS:
            least = rows[-1]
            print(f"... and {len(rows) - _ROWS} more, down to {least.path}, {least.distance:.3g}")
        weights = [row.channels for row in rows]
        mean, variance = (
            100 * np.average([getattr(row, name) for row in rows], weights=weights)
            for name in ("mean_larger", "variance_larger")
        )
        print(
            f"all channels: mean larger for adversarial images in {mean:.0f}%, "
            f"variance in {variance:.0f}%"
        )
        columns = ("path", "position", "channels", "distance", "mean_larger", "variance_larger")
        with self._open("distances.csv") as file:
            table = csv.writer(file)
            table.writerow(["layer", *columns[1:]])
            table.writerows([getattr(row, name) for name in columns] for row in rows)
        self._write_figure(
            "figure5.png", inspection.figure5(self.model, self.branch[0], **self._sample)
        )

    def _compare_batches(self, running):
        """Draws Figure 6, and prints and writes the statistics that it compares.

        Args:
            running: `LayerStatistics` by (path, domain).
        """
        import numpy as np

        from tfadv import inspection
        from tfadv.event_files import EventFile
        from tfadv.inspection import figures

        trained, step = self.settings.trained, int(self.model.optimizer.iterations)
        by_batch = [
            {(s.path, s.domain): s for s in inspection.batch_statistics(self.model, images, domain)}
            for images, domain in random_mini_batches(
                trained, self.model, self.dataset, _BATCHES, self.settings.seed
            )
        ]
        # TensorBoard has a run for each mini-batch and branch, as it has for moving statistics.
        for number, statistics in enumerate(by_batch, 1):
            for domain in {domain for _, domain in statistics}:
                file = EventFile(self.logs / f"mini_batch_{number}" / (domain or ""), step)
                for (path, branch), layer in statistics.items():
                    if branch == domain:
                        for name in ("mean", "variance"):
                            file.histogram(f"batch_{name}/{path}", getattr(layer, name), step)
                file.close()
        pairs = {
            key: (record, [statistics[key] for statistics in by_batch])
            for key, record in running.items()
            if key in by_batch[0]
        }
        figure = inspection.figure6(*pairs[self.branch], **self._sample, model_name=self.model.name)
        file = EventFile(self.logs, step)
        file.image(
            "statistics/batch_against_running", self._write_figure("figure6.png", figure), step
        )
        file.close()
        rows = [
            (batches[n], *key, n + 1)
            for n in range(_BATCHES)
            for key, (_, batches) in pairs.items()
        ]
        self._write_channels("batch_statistics.csv", ("mean", "variance"), rows, "mini_batch")
        differences = {key: inspection.relative_difference(*pair) for key, pair in pairs.items()}
        kind = mini_batch_text(trained)
        print(f"\nbatch against running statistics, {_BATCHES} mini-batches of {kind}:")
        for name, values in (
            (", ".join(filter(None, self.branch)), differences[self.branch]),
            ("all layers", np.mean(list(differences.values()), axis=0)),
        ):
            print(f"  {name}: {figures.difference_text(*values)}")

    def _write_figure(self, name, figure):
        from tfadv import inspection

        png = inspection.figure_to_png(figure)
        path = self.output / name
        path.write_bytes(png)
        self._written.append(path)
        return png

    def _write_channels(self, name, arrays, rows, *more):
        """Writes a row for each channel of rows (statistics, layer, domain, *more)."""
        with self._open(name) as file:
            table = csv.writer(file)
            table.writerow(["layer", "domain", *more, "channel", *arrays])
            for record, *keys in rows:
                columns = [getattr(record, array) for array in arrays]
                for channel in range(len(columns[0])):
                    values = ["" if c is None else float(c[channel]) for c in columns]
                    table.writerow(
                        [*("" if key is None else key for key in keys), channel, *values]
                    )

    def _open(self, name):
        path = self.output / name
        self._written.append(path)
        return open(path, "w", encoding="utf-8", newline="")


def random_mini_batches(
    trained: SimpleNamespace, model: Any, dataset: Any, number: int, seed: int
) -> Iterator[tuple[Any, str | int]]:
    """Draws mini-batches of training data, augmented and attacked as in training.

    The model is attacked as it is, in inference mode, with targets and starts drawn here.

    Args:
        trained: The settings of a training.
        model: A Keras model of images from 0 to 255.
        dataset: The data set of the training.
        number: The number of mini-batches.
        seed: Draws the images, the targets and the starts.

    Yields:
        Images, float32 `[batch, height, width, channels]`, adversarial ones first, and their
        domain, as of `tfadv.models.call`.
    """
    import tensorflow as tf

    from tfadv import models
    from tfadv.programs import building
    from tfadv.training.batches import Mixture

    attack = building.attack(trained, trained.num_steps) if trained.adversarial else None
    network = models.Frozen(models.logits(model), precision=trained.attack_precision)
    # An epoch that the training does not reach has another order and another augmentation.
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


def mini_batch_text(trained: SimpleNamespace) -> str:
    """Describes such a mini-batch: `"32 adversarial images (PGD-10) and 32 clean ones"`."""
    from tfadv.training.batches import clean_count

    size = trained.images_per_worker
    if not trained.adversarial:
        return f"{size} clean images"
    kept = trained.clean_ratio and clean_count(size, trained.clean_ratio)
    clean = f" and {kept} clean ones" if kept else ""
    name = attacks.name(trained.attack, trained.num_steps)
    return f"{size} adversarial images ({name}){clean}"
