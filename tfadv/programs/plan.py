"""`tfadv.plan`, from its command line to its last line."""

import contextlib
from types import SimpleNamespace

from tfadv import units
from tfadv.programs import flags, rules
from tfadv.programs.run_directory import RunDirectory
from tfadv.settings import PLAN
from tfadv.tables import datasets, devices

# How many numbers an optimizer keeps for each parameter.
_SLOTS = {"sgd": 1, "rmsprop": 2}
# Seconds of an update below which arithmetic is not what takes a GPU's time: one of the quickstart
# took 0.07 s on an H200, which could have computed it a thousand times in that time.
_SHORT = 0.05


def parse(arguments: list[str]) -> SimpleNamespace:
    """Parses and checks the command line, without TensorFlow.

    Returns:
        The settings of a training, and the devices that it is planned for.
    """
    description = "Predicts how long a training takes on a number of devices of a kind."
    settings = flags.parse(PLAN, arguments, description=description)
    # In a flagfile it is where a training writes, which does not matter to a plan.
    run_dir = flags.given_directly(PLAN, arguments, "run_dir")
    if run_dir:
        run = RunDirectory(run_dir)
        run.settings()  # raises unless the directory holds a run
        arguments = [f"--flagfile={run.flags.resolve()}", *arguments]
        settings = flags.parse(PLAN, arguments, description=description)
    rules.check_one_process("plan")
    entry = datasets.ENTRIES.get(settings.dataset)
    # Other data sets need not be here, since their sizes are known.
    if entry is None or entry.kind == "folder":
        datasets.check(settings.dataset, settings.data_dir)
    if settings.device != "here":
        if settings.device not in devices.known_devices():
            raise ValueError(
                f"device must be here or one of {', '.join(devices.known_devices())}; "
                f"received {settings.device!r}"
            )
        for dtype in rules.compute_dtypes(settings):
            devices.known_device(settings.device, dtype)
    elif settings.efficiency is not None:
        raise ValueError(
            f"efficiency must not be given with device=here; received {settings.efficiency}"
        )
    rules.check_training(settings, settings.workers)
    rules.warn_of_large_batch(settings)
    return settings


def prepare(settings: SimpleNamespace) -> "PlanningRun":
    """Builds the network and looks up the devices."""
    import keras

    from tfadv import models
    from tfadv.programs import building

    keras.config.set_dtype_policy(settings.dtype)
    kinds = None
    here = settings.device == "here"
    if not here:
        kinds = [
            devices.known_device(settings.device, dtype, settings.efficiency)
            for dtype in rules.compute_dtypes(settings)
        ]
    entry = datasets.ENTRIES[settings.dataset]
    size = settings.image_size or entry.image_size
    sizes = datasets.sizes(settings.dataset, settings.data_dir)
    images = SimpleNamespace(
        image_shape=(size, size, entry.channels), num_classes=sizes.num_classes
    )
    # A network that is only counted needs no initial values, which take most of its time.
    no_values = keras.StatelessScope(initialize_variables=False)
    with contextlib.nullcontext() if here else no_values:
        model = building.network(settings, images)
    if settings.trainable == "norm":
        models.train_only_normalization(model)
    return PlanningRun(settings, sizes, model, kinds)


def work(settings, workers, sizes=None):
    """Returns the `Work` of each worker when `tfadv.train` runs with some settings.

    An attack counts as one gradient for each of its steps, or as one in all if it has no steps.

    Args:
        settings: The settings of a training.
        workers: Number of workers.
        sizes: The `tfadv.tables.datasets.Sizes` of the data set; None looks them up.
    """
    from tfadv import data
    from tfadv.programs import building, time_model
    from tfadv.training.batches import clean_count

    sizes = sizes or datasets.sizes(settings.dataset, settings.data_dir)
    images = settings.images_per_worker
    clean = images
    if settings.adversarial:
        clean = clean_count(images, settings.clean_ratio) if settings.clean_ratio else 0
    attack = building.attack(settings, settings.num_steps)
    steps = settings.steps_per_epoch
    if steps is None:
        steps = data.steps_per_epoch(sizes.num_train, settings.batch_size)
    return time_model.Work(
        images=images,
        clean_images=clean,
        num_steps=_gradients(attack.num_steps) if settings.adversarial else None,
        restarts=attack.restarts,
        accumulation_steps=rules.accumulation_steps(settings, workers),
        attack_parts=settings.attack_parts or 1,  # a default of 2 takes no more memory
        updates=settings.epochs * steps,
        rematerialize=settings.rematerialize,
        slots=_SLOTS[settings.optimizer],
        compression=settings.gradient_compression,
        evaluations=tuple(_evaluations(settings, workers, sizes.num_validation)),
    )


def _gradients(num_steps):
    return 1 if num_steps is None else num_steps


def _evaluations(settings, workers, available):
    from tfadv import data
    from tfadv.programs import building, time_model

    for due, num_steps in building.evaluations_due(settings):
        if num_steps:
            count = min(settings.eval_limit or available, available)
            batch = settings.images_per_worker
            yield time_model.Evaluation(
                times=sum(map(bool, map(due, range(settings.epochs)))),
                images=batch * data.validation_steps(count, batch, workers),
                num_steps=building.evaluation_steps(settings, tuple(num_steps)) or (1,),
            )


class PlanningRun:
    """A plan that is ready to be made."""

    def __init__(self, settings, sizes, model, devices):
        self.settings = settings
        self.sizes = sizes
        self.model = model
        self.devices = devices  # those of the attack and of the update; None for this machine
        self.work = work(settings, settings.workers, sizes)

    def run(self):
        """Counts, predicts and prints; returns the `Prediction`."""
        from tfadv.programs import costs, time_model

        settings, work = self.settings, self.work
        cost = costs.network_cost(self.model)
        attack_rate, update_rate, evaluation_rate = self._rates(cost)
        prediction = time_model.predict(
            work,
            cost,
            workers=settings.workers,
            attack_rate=attack_rate,
            update_rate=update_rate,
            evaluation_rate=evaluation_rate,
            bandwidth=1e9 * settings.bandwidth,
            latency=1e-6 * settings.latency,
            copying=1e9 * settings.copying if settings.copying else None,
            jitter=settings.jitter,
        )
        lines = {
            "data": f"{settings.dataset}, {self.sizes.num_train:,} training and "
            f"{self.sizes.num_validation:,} validation images, {self.sizes.num_classes} classes",
            "network": f"{self.model.name}, norm {settings.norm}, {cost.parameters:,} parameters; "
            f"GFLOP an image: forward {cost.forward / 1e9:.4g}, attack step "
            f"{cost.image_gradient / 1e9:.4g}, update's pass {cost.update / 1e9:.4g}",
            "strategy": self._strategy(cost),
            "devices": self._devices(attack_rate, update_rate),
            "between": "one device sends nothing",
            "update": self._update(prediction),
            "memory": self._memory(work.memory(cost, settings.workers)),
            "training": f"{units.count(prediction.updates, 'update')} and "
            f"{units.duration(prediction.evaluations)} of evaluations: "
            f"{units.duration(3600 * prediction.hours)}, "
            f"{units.duration(3600 * prediction.device_hours, 'device-')}",
        }
        if settings.workers > 1:
            lines["between"] = (
                f"{work.reduced_bytes(cost) / 1e6:.4g} MB an update at {settings.bandwidth:g} GB/s "
                f"and {settings.latency:g} us a step of the ring; jitter {settings.jitter:g}"
            )
            if settings.copying:
                lines["between"] += f"; Gloo, cores copy {settings.copying:g} GB/s"
        for name, text in lines.items():
            print(f"{name + ':':<13}{text}")
        return prediction

    def _rates(self, cost):
        """Returns the FLOP/s of the attack, of the update and of evaluations."""
        from tfadv.programs import building, costs

        # Evaluations are attacked in the network's own precision.
        if self.devices:
            attack, update = self.devices
            return attack.rate, update.update_rate, update.rate
        # PGD stands for every attack, whose costs are counted in gradients.
        settings = SimpleNamespace(**{**vars(self.settings), "attack": "pgd"})
        building.compile_model(self.model, settings, self.work.updates)
        attack, update = costs.measure_rates(
            self.model,
            building.attack(settings, settings.num_steps) if settings.adversarial else None,
            cost,
            images=self.work.images,
            clean_ratio=settings.clean_ratio,
            rematerialize=settings.rematerialize,
            attack_precision=settings.attack_precision,
            jit_compile=building.jit_compile(settings.step_xla),
        )
        attack_dtype, update_dtype = rules.compute_dtypes(settings)
        return attack, update, attack if attack_dtype == update_dtype else update

    def _strategy(self, cost):
        from tfadv.programs import building

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

    def _devices(self, attack_rate, update_rate):
        workers = self.settings.workers
        if not self.devices:
            return (
                f"{workers} like this one, measured now: attack {attack_rate / 1e12:.3g} TFLOP/s, "
                f"update's pass {update_rate / 1e12:.3g}"
            )
        attack, update = self.devices
        uses = {"all": attack} if attack == update else {"attack": attack, "update": update}
        return f"{workers} {attack.name}; " + "; ".join(
            f"{use} in {device.dtype} on {device.units}: {_share(use, device)} of "
            f"{device.peak / 1e12:g} TFLOP/s ({device.source}{_measured(device)})"
            for use, device in uses.items()
        )

    def _update(self, prediction):
        total = prediction.seconds_per_update
        shares = {
            "attack": prediction.attack,
            "forward and backward pass": prediction.update,
            "communication": prediction.communication,
            "waiting for the slowest": prediction.waiting,
        }
        text = f"{units.duration(total)}: "
        text += ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in shares.items())
        text += f"; {units.rounded(prediction.images_per_second)} clean images a second"
        on_gpus = self.devices and self.devices[0].name != "cpu"
        if on_gpus and prediction.attack + prediction.update < _SHORT:
            text += "; more than that is lost while kernels start, which is not counted"
        return text

    def _memory(self, needed):
        text = f"about {needed / 1e9:.3g} GB a device"
        available = self.devices[0].memory if self.devices else None
        if available is None:
            return text
        text += f" of {available / 1e9:g}"
        if needed > available:
            deeper = {"none": "step", "step": "all"}.get(self.settings.rematerialize)
            text += ": too much" + (f" (--rematerialize={deeper} takes less)" if deeper else "")
        return text


def _measured(device):
    return f"; on {device.measured}" if device.measured else ""


def _share(use, device):
    """Returns the share of its peak that a device reaches in the attack, the update, or all."""
    attack, update = f"{device.efficiency:.3g}", f"{device.update_efficiency:.3g}"
    if use == "update":
        return update
    if use == "attack" or attack == update:
        return attack
    return f"{attack} (the attack) and {update} (the update's pass)"
