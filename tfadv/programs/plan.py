import contextlib
import types

import keras

from tfadv import data, models, planning
from tfadv.programs import building, rules, units
from tfadv.tables import datasets
from tfadv.tables.devices import known_device
from tfadv.training.batches import clean_count

# The optimizer's numbers for each parameter.
_SLOTS = {"sgd": 1, "rmsprop": 2}
# Seconds of an update below which arithmetic is not what takes a GPU's time: the quickstart's took
# 0.07 on an H200, which could have computed it a thousand times in that.
_STARTS = 0.05


def prepare(settings):
    """Everything of a plan up to its arithmetic, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `command_lines.plan`.

    Returns:
        A `PlanningRun`.
    """
    keras.config.set_dtype_policy(settings.dtype)
    devices = None
    here = settings.device == "here"
    if not here:
        devices = [
            known_device(settings.device, dtype, settings.efficiency)
            for dtype in rules.compute_dtypes(settings)
        ]
    entry = datasets.ENTRIES[settings.dataset]
    size = settings.image_size or entry.image_size
    sizes = datasets.sizes(settings.dataset, settings.data_dir)
    images = types.SimpleNamespace(
        image_shape=(size, size, entry.channels), num_classes=sizes.num_classes
    )
    # What is only counted needs no values, which take most of a deep network's time.
    no_values = keras.StatelessScope(initialize_variables=False)
    with contextlib.nullcontext() if here else no_values:
        model = building.network(settings, images)
    if settings.trainable == "norm":
        models.train_only_normalization(model)
    return PlanningRun(settings, sizes, model, devices)


def work(settings, workers, sizes=None):
    """What the training of `tfadv.train` with these settings asks of each worker.

    An attack counts as one gradient for each of its steps, or as one in all if it has no steps.

    Args:
        settings: Namespace, of `command_lines.plan` or `command_lines.train`.
        workers: Integer.
        sizes: The data set's `tfadv.data.datasets.Sizes`; None looks them up.

    Returns:
        A `tfadv.planning.Work`.
    """
    sizes = sizes or datasets.sizes(settings.dataset, settings.data_dir)
    images = settings.images_per_worker
    clean = images
    if settings.adversarial:
        clean = clean_count(images, settings.clean_ratio) if settings.clean_ratio else 0
    attack = building.attack(settings, settings.num_steps)
    steps = settings.steps_per_epoch
    if steps is None:
        steps = data.steps_per_epoch(sizes.num_train, settings.batch_size)
    return planning.Work(
        images=images,
        clean_images=clean,
        num_steps=_gradients(attack.num_steps) if settings.adversarial else None,
        restarts=attack.restarts,
        accumulation_steps=rules.accumulation_steps(settings, workers),
        updates=settings.epochs * steps,
        rematerialize=settings.rematerialize,
        slots=_SLOTS[settings.optimizer],
        compression=settings.gradient_compression,
        evaluations=tuple(_evaluations(settings, workers, sizes.num_validation)),
    )


def _gradients(num_steps):
    return 1 if num_steps is None else num_steps


def _evaluations(settings, workers, available):
    for due, num_steps in building.evaluations_due(settings):
        if num_steps:
            count = min(settings.eval_limit or available, available)
            batch = settings.images_per_worker
            yield planning.Evaluation(
                times=sum(map(bool, map(due, range(settings.epochs)))),
                images=batch * data.validation_steps(count, batch, workers),
                num_steps=building.evaluation_steps(settings, tuple(num_steps)) or (1,),
            )


class PlanningRun:
    """A run of `tfadv.plan`, ready to start."""

    def __init__(self, settings, sizes, model, devices):
        self.settings = settings
        self.sizes = sizes
        self.model = model
        self.devices = devices
        self.work = work(settings, settings.workers, sizes)

    def run(self):
        """Counts, predicts and prints; returns the `tfadv.planning.Prediction`."""
        settings, workers = self.settings, self.settings.workers
        cost = planning.network_cost(self.model)
        link = planning.Link(1e9 * settings.bandwidth, 1e-6 * settings.latency)
        rates = self._rates(cost)
        prediction = planning.predict(
            self.work,
            cost,
            attack_rate=rates[0],
            update_rate=rates[1],
            link=link,
            workers=workers,
            jitter=settings.jitter,
            evaluation_rate=self._evaluation_rate(rates),
        )
        for name, text in (
            ("data", self._data()),
            ("network", self._network(cost)),
            ("strategy", self._strategy(cost)),
            ("devices", self._devices(rates)),
            ("between", self._between(cost)),
            ("update", _update(prediction) + self._doubt(prediction)),
            ("memory", self._memory(cost)),
            ("training", _training(prediction)),
        ):
            print(f"{name + ':':<13}{text}")
        return prediction

    def _rates(self, cost):
        if self.devices:
            attack, update = self.devices
            return attack.rate, update.update_rate
        # Measured with PGD, since a plan counts every attack in gradient steps.
        settings = types.SimpleNamespace(**{**vars(self.settings), "attack": "pgd"})
        building.compile_model(self.model, settings, self.work.updates)
        return planning.measure_rates(
            self.model,
            building.attack(settings, settings.num_steps) if settings.adversarial else None,
            cost,
            images=self.work.images,
            clean_ratio=settings.clean_ratio,
            rematerialize=settings.rematerialize,
            attack_precision=settings.attack_precision,
        )

    def _evaluation_rate(self, rates):
        # Evaluations are attacked in the network's own precision.
        if self.devices:
            return self.devices[1].rate
        attack, own = rules.compute_dtypes(self.settings)
        return rates[attack != own]

    def _data(self):
        sizes = self.sizes
        return (
            f"{self.settings.dataset}, {sizes.num_train:,} training and {sizes.num_validation:,} "
            f"validation images, {sizes.num_classes} classes"
        )

    def _network(self, cost):
        giga = [f"{flops / 1e9:.4g}" for flops in (cost.forward, cost.image_gradient, cost.update)]
        return (
            f"{self.model.name}, norm {self.settings.norm}, {cost.parameters:,} parameters; GFLOP "
            f"an image: forward {giga[0]}, attack step {giga[1]}, update's pass {giga[2]}"
        )

    def _strategy(self, cost):
        work, settings = self.work, self.settings
        name = "0% adv + 100% clean"
        if settings.adversarial:
            attack = building.attack(settings, settings.num_steps).name
            name = f"{attack}, 100% adv + {100 * settings.clean_ratio:g}% clean"
        attack, update = work.attack_flops(cost), work.update_flops(cost)
        images = work.images * work.accumulation_steps
        return (
            f"{name}; {(attack + update) / images / 1e9:.4g} GFLOP a clean image, "
            f"{attack / (attack + update):.0%} of them the attack's"
        )

    def _devices(self, rates):
        workers = self.settings.workers
        if not self.devices:
            return (
                f"{workers} like this one, measured now: attack {rates[0] / 1e12:.3g} TFLOP/s, "
                f"update's pass {rates[1] / 1e12:.3g}"
            )
        uses = dict(zip(("attack", "update"), self.devices, strict=True))
        if self.devices[0] == self.devices[1]:
            uses = {"all": self.devices[0]}
        return f"{workers} {self.devices[0].name}; " + "; ".join(
            f"{use} in {device.dtype} on {device.units}: {_share(use, device)} of "
            f"{device.peak / 1e12:g} TFLOP/s ({device.source})"
            for use, device in uses.items()
        )

    def _doubt(self, prediction):
        seconds = prediction.attack + prediction.update
        if self.devices and self.devices[0].name != "cpu" and seconds < _STARTS:
            return "; more than that is lost while kernels start, which is not counted"
        return ""

    def _between(self, cost):
        settings = self.settings
        if settings.workers == 1:
            return "one device sends nothing"
        return (
            f"{self.work.reduced_bytes(cost) / 1e6:.4g} MB an update at {settings.bandwidth:g} GB/s"
            f" and {settings.latency:g} us a step of the ring; jitter {settings.jitter:g}"
        )

    def _memory(self, cost):
        needed = self.work.memory(cost, self.settings.workers)
        text = f"about {needed / 1e9:.3g} GB a device"
        memory = self.devices[0].memory if self.devices else None
        if memory is None:
            return text
        text += f" of {memory / 1e9:g}"
        if needed > memory:
            deeper = {"none": "step", "step": "all"}.get(self.settings.rematerialize)
            text += ": too much" + (f" (--rematerialize={deeper} takes less)" if deeper else "")
        return text


def _share(use, device):
    """What share of its peak a device reaches in the attack, the update's pass, or both."""
    attack, update = f"{device.efficiency:.3g}", f"{device.update_efficiency:.3g}"
    if attack == update:
        return attack
    return {"attack": attack, "update": update}.get(
        use, f"{attack} (the attack) and {update} (the update's pass)"
    )


def _update(prediction):
    total = prediction.seconds_per_update
    shares = ", ".join(
        f"{name} {getattr(prediction, attribute) / total:.1%}"
        for name, attribute in (
            ("attack", "attack"),
            ("forward and backward pass", "update"),
            ("communication", "communication"),
            ("waiting for the slowest", "waiting"),
        )
    )
    images = units.rounded(prediction.images_per_second)
    return f"{units.duration(total)}: {shares}; {images} clean images a second"


def _training(prediction):
    seconds = 3600 * prediction.hours
    evaluations = units.duration(prediction.evaluations)
    return (
        f"{prediction.updates:,} updates and {evaluations} of evaluations: "
        f"{units.duration(seconds)}, {units.duration(seconds * prediction.workers, 'device-')}"
    )
