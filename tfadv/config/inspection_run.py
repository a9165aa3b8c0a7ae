import csv
import pathlib

import numpy as np
import tensorflow as tf

from tfadv import callbacks, inspection, models
from tfadv.config import building, flag_table, loading
from tfadv.inspection import figures
from tfadv.training.batches import Mixture

_BATCHES = 2  # as in the paper's Figure 6
_ROWS = 10


def prepare(settings, path, run):
    """Everything of an inspection up to its first number, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `tfadv.config.inspect`.
        path: Of a `.keras` file.
        run: The `RunDirectory` that it is of, or None.

    Returns:
        An `InspectionRun`.
    """
    model = loading.classifier(path, settings.value_range, compile=True)
    records = inspection.statistics(model)
    if not records:
        raise ValueError(f"model must have batch normalization; {path} has none")
    mixtures = inspection.pairs(records)
    if mixtures:
        layer = figures.mixture_path(model, settings.layer)
    else:
        layer = figures.layer_path([record.path for record in records], settings.layer)
    trained = dataset = None
    if settings.figure6:
        trained = run.settings(flag_table.TRAIN)
        trained.data_dir = settings.data_dir or trained.data_dir
        dataset = building.dataset(trained)
    output = pathlib.Path(settings.output or run.path / "inspection")
    output.mkdir(parents=True, exist_ok=True)
    logs = run.tensorboard if run is not None else output / "tensorboard"
    return InspectionRun(settings, path, model, layer, output, logs, trained, dataset)


class InspectionRun:
    """A run of `tfadv.inspect`, ready to start."""

    def __init__(self, settings, path, model, layer, output, logs, trained, dataset):
        self.settings = settings
        self.path = path
        self.model = model
        self.layer = layer
        self.output = output
        self.logs = pathlib.Path(logs) / "inspection"
        self.trained = trained
        self.dataset = dataset
        self.written = []

    def run(self):
        """Measures, draws, prints and writes."""
        records = inspection.statistics(self.model)
        self._tensorboard_statistics()
        writer = tf.summary.create_file_writer(str(self.logs))
        with writer.as_default(self._step()):
            self._domains(records)
            if self.dataset is not None:
                self._batches(records)
        writer.close()
        arrays = ("moving_mean", "moving_variance", "gamma", "beta")
        self._csv("statistics.csv", arrays, [(r, r.path, r.domain) for r in records])
        print("written to:", *self.written, f"TensorBoard: {self.logs}", sep="\n  ", flush=True)

    def _domains(self, records):
        rows = inspection.distance_table(records)
        print(f"{self.path}: {len({r.path for r in records})} batch normalizations")
        if not rows:
            print("no mixture in it, and so no Figure 5 and no distances between domains")
            return
        print("\ndistance between the domains (Hellinger: 0 is equal, 1 is disjoint):")
        width = max(len(row.path) for row in rows)
        print(f"{'layer':<{width}}  place  distance  adversarial larger: mean  variance")
        for row in rows[:_ROWS]:
            print(
                f"{row.path:<{width}}  {row.position:>5}  {row.distance:8.3f}"
                f"  {100 * row.mean_larger:22.0f}%  {100 * row.variance_larger:7.0f}%"
            )
        if len(rows) > _ROWS:
            print(f"... and {len(rows) - _ROWS} more, down to {rows[-1].distance:.3f}")
        channels = sum(row.channels for row in rows)
        larger = [
            100 * sum(row.channels * getattr(row, name) for row in rows) / channels
            for name in ("mean_larger", "variance_larger")
        ]
        print(
            f"all channels: mean larger for adversarial images in {larger[0]:.0f}%, "
            f"variance in {larger[1]:.0f}%"
        )
        with self._open("distances.csv") as file:
            table = csv.writer(file)
            names = ("path", "position", "channels", "distance", "mean_larger", "variance_larger")
            table.writerow(["layer", *names[1:]])
            table.writerows([getattr(row, name) for name in names] for row in rows)
        options = {"channels": self.settings.channels, "seed": self.settings.seed}
        self._figure("figure5", inspection.figure5(self.model, self.layer, **options))

    def _batches(self, records):
        by_batch = [
            {(s.path, s.domain): s for s in inspection.batch_statistics(self.model, images, domain)}
            for images, domain in self._mini_batches()
        ]
        domain = self.settings.domain if inspection.pairs(records) else None
        running = {(record.path, record.domain): record for record in records}
        seen = [found[self.layer, domain] for found in by_batch]
        figure = inspection.figure6(
            running[self.layer, domain],
            seen,
            self.settings.channels,
            self.settings.seed,
            self.model.name,
        )
        self._figure("figure6", figure)
        rows = [
            (found[key], *key, number)
            for number, found in enumerate(by_batch, 1)
            for key in running
            if key in found
        ]
        self._csv("batch_statistics.csv", ("mean", "variance"), rows, "mini_batch")
        for found, path, branch, number in rows:
            for name in ("mean", "variance"):
                tag = f"batch_{name}_{number}/{path}" + (f"/{branch}" if branch else "")
                tf.summary.histogram(tag, getattr(found, name))
        pairs = [
            (running[k], [found[k] for found in by_batch]) for k in running if k in by_batch[0]
        ]
        means, variances = np.mean([inspection.relative_difference(*p) for p in pairs], axis=0)
        print(
            f"\nmini-batches of {self.trained.images_per_worker} images against running "
            f"statistics, over all layers: means differ by {means:.3f} standard deviations, "
            f"variances by {100 * variances:.1f}%"
        )

    def _mini_batches(self):
        """Images and domain of random mini-batches, made as the run's training makes them."""
        trained, logits = self.trained, models.logits(self.model)
        attack = building.attack(trained, trained.num_steps) if trained.adversarial else None
        # Of an epoch that training does not reach: images in an order and with changes of its own.
        data = self.dataset.train_batches(
            trained.images_per_worker, _BATCHES, seed=self.settings.seed, first_epoch=trained.epochs
        )
        for number, (images, labels) in enumerate(data.take(_BATCHES)):
            images = tf.cast(images, tf.float32)
            adversarial = None
            if attack is not None:
                adversarial = attack(
                    lambda images: models.call(logits, images, domain="adv"),
                    images,
                    labels,
                    value_range=(0, 255),
                    seed=[self.settings.seed, number],
                    num_classes=self.dataset.num_classes,
                )
            batch = Mixture(images, adversarial, labels, None, trained.clean_ratio)
            yield batch.images, batch.domain

    def _tensorboard_statistics(self):
        """Histograms, distances and Figure 5 of all layers, as training writes them of some."""
        if self.model.optimizer is None:
            self.model.compile("sgd")  # only to have a step, which is 0
        mixture = bool(models.mixtures(self.model))
        writer = callbacks.BatchNormStatistics(
            self.logs,
            max_layers=100_000,
            layer=self.layer if mixture else None,
            channels=self.settings.channels,
            seed=self.settings.seed,
        )
        writer.set_model(self.model)
        writer.on_train_begin()
        writer.on_train_end()

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _figure(self, name, figure):
        png = inspection.figure_to_png(figure)
        path = self.output / f"{name}.png"
        path.write_bytes(png)
        self.written.append(path)
        tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])

    def _csv(self, name, arrays, rows, *more):
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
        self.written.append(path)
        return open(path, "w", encoding="utf-8", newline="")
