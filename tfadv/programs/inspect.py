import csv
import pathlib

import numpy as np
import tensorflow as tf

from tfadv import callbacks, distributed, evaluation, inspection, models
from tfadv.event_files import EventFile
from tfadv.inspection import figures, layer_statistics
from tfadv.programs import building, exits, loading
from tfadv.tables import attacks
from tfadv.training.batches import Mixture, clean_count

_BATCHES = 2  # as in the paper's Figure 6
_ROWS = 10


def prepare(settings, path, run):
    """Everything of an inspection up to its first number, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `command_lines.inspect`.
        path: Of a `.keras` file.
        run: The `RunDirectory` that it is of, or None.

    Returns:
        An `InspectionRun`.
    """
    distributed.init()  # which leaves others on a GPU its memory
    model = loading.classifier(path, settings.value_range, compile=True)
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
        dataset = building.dataset(settings.trained)
        models.check_outputs(model, attacked=settings.trained.adversarial)
        evaluation.Evaluator(model, value_range=settings.value_range).open(dataset)
        _check_batch_statistics(settings.trained, layer, layers[layer], domain)
    output = pathlib.Path(settings.output or run.path / "inspection")
    output.mkdir(parents=True, exist_ok=True)
    logs = output / "tensorboard" if settings.output else run.tensorboard
    branch = layer, domain
    return InspectionRun(settings, path, model, branch, dataset, output, logs / "inspection")


def _check_batch_statistics(trained, path, layer, domain):
    """Raises `ValueError` if the mini-batches give the layer of Figure 6 no statistics."""
    if not layer.trainable:
        raise ValueError(f"layer must not be frozen, for Figure 6; {path!r} is")
    if domain == "adv" and not trained.adversarial:
        raise ValueError("domain=adv needs adversarial images; received adversarial=False")
    if domain == "clean" and trained.adversarial and not trained.clean_ratio:
        raise ValueError("domain=clean needs clean images; received clean_ratio=0.0")


class InspectionRun:
    """A run of `tfadv.inspect`, ready to start."""

    def __init__(self, settings, path, model, branch, dataset, output, logs):
        self.settings = settings
        self.path = path
        self.model = model
        self.branch = branch
        self.dataset = dataset
        self.output = output
        self.logs = logs
        self.sample = {"channels": settings.channels, "seed": settings.seed}
        self.written = []

    def run(self):
        """Measures, draws, prints and writes."""
        records = inspection.statistics(self.model)
        print(f"{self.path}: {len({r.path for r in records})} batch normalizations")
        # Like the files beside it, TensorBoard shows the last inspection.
        for old in self.logs.rglob("events.out.tfevents.*"):
            old.unlink()
        self._tensorboard_statistics()
        self._domains(inspection.distance_table(records))
        if self.dataset is not None:
            with exits.input_errors("inspect"):
                self._batches({(record.path, record.domain): record for record in records})
        elif self.settings.model and not self.settings.dataset:
            print("no dataset was given, and so no Figure 6")
        arrays = ("moving_mean", "moving_variance", "gamma", "beta")
        self._csv("statistics.csv", arrays, [(r, r.path, r.domain) for r in records])
        print("written to:", *self.written, f"TensorBoard: {self.logs}", sep="\n  ", flush=True)

    def _domains(self, rows):
        """The table of all mixtures, and Figure 5."""
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
            least = rows[-1]
            print(f"... and {len(rows) - _ROWS} more, down to {least.path}, {least.distance:.3f}")
        weights = [row.channels for row in rows]
        mean, variance = (
            100 * np.average([getattr(row, name) for row in rows], weights=weights)
            for name in ("mean_larger", "variance_larger")
        )
        print(
            f"all channels: mean larger for adversarial images in {mean:.0f}%, "
            f"variance in {variance:.0f}%"
        )
        with self._open("distances.csv") as file:
            table = csv.writer(file)
            names = ("path", "position", "channels", "distance", "mean_larger", "variance_larger")
            table.writerow(["layer", *names[1:]])
            table.writerows([getattr(row, name) for name in names] for row in rows)
        self._figure("figure5", inspection.figure5(self.model, self.branch[0], **self.sample))

    def _batches(self, running):
        """Figure 6, and what it is taken from."""
        trained = self.settings.trained
        made = trained, self.model, self.dataset, _BATCHES, self.settings.seed
        by_batch = [
            {(s.path, s.domain): s for s in inspection.batch_statistics(self.model, images, domain)}
            for images, domain in random_mini_batches(*made)
        ]
        pairs = {
            key: (record, [found[key] for found in by_batch])
            for key, record in running.items()
            if key in by_batch[0]
        }
        for number, found in enumerate(by_batch, 1):
            self._tensorboard_batch(number, found)
        figure = inspection.figure6(*pairs[self.branch], **self.sample, model_name=self.model.name)
        png = self._figure("figure6", figure)
        file = EventFile(self.logs, self._step())
        file.image("figure6", png, self._step())
        file.close()
        rows = [
            (batches[n], *key, n + 1)
            for n in range(_BATCHES)
            for key, (_, batches) in pairs.items()
        ]
        self._csv("batch_statistics.csv", ("mean", "variance"), rows, "mini_batch")

        differences = {key: inspection.relative_difference(*pair) for key, pair in pairs.items()}
        kind = mini_batch_text(trained)
        print(f"\nbatch against running statistics, {_BATCHES} mini-batches of {kind}:")
        for name, values in (
            (", ".join(filter(None, self.branch)), differences[self.branch]),
            ("all layers", np.mean(list(differences.values()), axis=0)),
        ):
            print(f"  {name}: {figures.difference_text(*values)}")

    def _tensorboard_statistics(self):
        """Histograms, distances and Figure 5 of all layers, as training writes them of some."""
        if getattr(self.model, "optimizer", None) is None:
            self.model.compile("sgd")  # only to have a step, which is 0
        writer = callbacks.BatchNormStatistics(
            self.logs,
            max_layers=len(layer_statistics.normalizations(self.model)),
            layer=self.branch[0] if models.mixtures(self.model) else None,
            **self.sample,
        )
        writer.set_model(self.model)
        writer.on_train_begin()
        writer.on_train_end()

    def _tensorboard_batch(self, number, found):
        """Histograms of one mini-batch, each branch a run, as those of the moving statistics."""
        for domain in {domain for _, domain in found}:
            file = EventFile(self.logs / f"mini_batch_{number}" / (domain or ""), self._step())
            for (path, branch), statistics in found.items():
                for name in ("mean", "variance"):
                    if branch == domain:
                        values = getattr(statistics, name)
                        file.histogram(f"batch_{name}/{path}", values, self._step())
            file.close()

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _figure(self, name, figure):
        png = inspection.figure_to_png(figure)
        path = self.output / f"{name}.png"
        path.write_bytes(png)
        self.written.append(path)
        return png

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


def random_mini_batches(trained, model, dataset, number, seed):
    """Draws mini-batches of training data, augmented and attacked as in training.

    The model attacks itself as it is, in inference mode, with targets and starts drawn here.

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


def mini_batch_text(trained):
    """What such a mini-batch holds, in words."""
    size = trained.images_per_worker
    if not trained.adversarial:
        return f"{size} clean images"
    kept = trained.clean_ratio and clean_count(size, trained.clean_ratio)
    clean = f" and {kept} clean ones" if kept else ""
    name = attacks.name(trained.attack, trained.num_steps)
    return f"{size} adversarial images ({name}){clean}"
