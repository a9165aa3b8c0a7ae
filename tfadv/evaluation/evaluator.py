import numpy as np
import tensorflow as tf

from tfadv import arguments, distributed, models, watchdog
from tfadv.attacks import Attack, checks
from tfadv.evaluation import shares
from tfadv.evaluation.network import Network
from tfadv.evaluation.sources import open_source
from tfadv.results import Result

# What the watchdog hears of in between: a whole batch under PGD-2000 may take longer than it waits.
_STEPS_TO_REPORT = 100


class Evaluator:
    """An evaluation that can be repeated without compiling it again, as a model trains.

    Args:
        model, attack, num_steps, domains, value_range, seed, attack_precision: As of `evaluate`.

    Call arguments:
        data, batch_size, limit, progress, journal: As of `evaluate`.

    Attributes:
        outcomes_by_index: Dictionary, index of each image that this worker had in the last call ->
            its boolean array `[domains, 1 + numbers of steps, 3]`, as of `outcomes`.

    Returns:
        As `evaluate`.
    """

    def __init__(
        self,
        model,
        attack=None,
        num_steps=None,
        domains=("adv",),
        value_range=None,
        seed=0,
        attack_precision="float32",
    ):
        models.check_classifier(model)
        models.check_outputs(model, attacked=attack is not None)
        models.check_evaluation(model)
        self.model = model
        self.attack = attack
        self.num_steps = _numbers(attack, num_steps)
        # The attack with each of the numbers of steps.
        self.attacks = {number: attack.with_steps(number) for number in self.num_steps}
        self.domains = _domains(model, domains)
        self.seed = arguments.integer("seed", seed, 0)
        self.value_range = None
        if attack is not None or value_range is not None or models.contract(model) is not None:
            self.value_range = checks.value_range(models.value_range(model, value_range))
        self._groups = {}  # step size -> numbers of steps, ascending, on one trajectory
        for number in self.num_steps:
            self._groups.setdefault(self.step_size(number), []).append(number)
        logits = models.logits(model)
        # `domain` is chosen even where there is none to choose: "adv" is the layers' default.
        self.attack_precision = attack_precision
        self.networks = [
            Network(logits, domain or "adv", attack_precision) for domain in self.domains
        ]
        self._start = tf.function(self._draw, autograph=False)
        self.outcomes_by_index = {}
        self._compared = None  # data, how many of them, and the division of those

    def __call__(self, data, batch_size=64, limit=None, progress=None, journal=None):
        source = self.open(data, batch_size, limit)
        shape = [len(self.domains), 1 + len(self.num_steps), 3]
        known = {}
        if journal is not None:
            if source.division is not None:
                journal.narrow(division=source.division)
            # All of them, on all workers: by their indices they are shared out, and left out.
            for found in distributed.gather_object(journal.read(shape)):
                known.update(found)
        if limit is not None:
            known = {index: found for index, found in known.items() if index < limit}
        mine = [found for i, found in known.items() if i % distributed.size() == distributed.rank()]
        counts, total = np.sum(mine, axis=0, dtype=np.int64) + np.zeros(shape, np.int64), len(mine)
        self.outcomes_by_index = dict(known)
        done = 0
        for done, batch in enumerate(source.batches(known), 1):
            if batch is not None:  # more workers than images, or all of them known
                found = np.stack([self.outcomes(network, *batch) for network in self.networks])
                counts += np.sum(found, axis=-1)
                total += np.sum(batch[2] >= 0)
                found = np.moveaxis(found, -1, 0)
                self.outcomes_by_index.update(zip(batch[2].tolist(), found, strict=True))
                if journal is not None:
                    journal.add(batch[2], found)
            watchdog.beat(f"behind batch {done} of an evaluation")
            if progress is not None:
                progress(done, source.num_batches)
        if progress is not None and source.num_batches is None:
            progress(done, done)
        # The only collective operation, which every worker reaches whatever its batches were.
        counts = distributed.total([total, *counts.ravel()]).round().astype(np.int64)
        total, counts = int(counts[0]), counts[1:].reshape(len(self.domains), -1, 3)
        if not total:
            raise ValueError("data must hold at least one image; received none")
        return [
            self._result(domain, number, *map(int, row), total)
            for domain, rows in zip(self.domains, counts, strict=True)
            for number, row in zip((0, *self.num_steps), rows, strict=True)
        ]

    @property
    def attack_config(self):
        """The attack's label and settings, as plain values; None without an attack."""
        if self.attack is None:
            return None
        return {"label": self.attack.label, **self.attack.get_config()}

    @property
    def identity(self):
        """What an image's outcomes depend on beside the model and the image, as plain values."""
        config = self.attack_config
        # Journals of PGD do not name it: they may be from before there were other attacks.
        if config is not None and config["label"] == "PGD":
            del config["label"]
        return {
            "attack": config,
            "num_steps": self.num_steps,
            "domains": self.domains,
            "value_range": self.value_range,
            "seed": self.seed,
            "attack_precision": self.attack_precision,
        }

    def open(self, data, batch_size=64, limit=None):
        """Opens data for this worker, after checking that they fit the model.

        Several workers do so together, and compare what they hold: once for the same data.

        Args:
            data, batch_size, limit: As of `evaluate`.

        Returns:
            A `tfadv.evaluation.sources.Source`.

        Raises:
            ValueError: If they do not fit, or if what the workers hold is neither all images on
                each nor a share of its own on each.
        """
        batch_size = arguments.integer("batch_size", batch_size, 1)
        if limit is not None:
            limit = arguments.integer("limit", limit, 1)
        if distributed.size() == 1:
            return self._checked(open_source(data, batch_size, limit, 0, 1))
        division = self._division(data, batch_size, limit)
        return open_source(
            data, batch_size, limit, distributed.rank(), distributed.size(), division
        )

    def _division(self, data, batch_size, limit):
        """How the workers hold the data, as of `Source`, after checking each worker's."""
        known = self._compared
        is_known = (
            known is not None and known[0] is data and (known[1] or np.inf) >= (limit or np.inf)
        )
        if not all(distributed.gather_object(is_known)):
            mistake = None
            try:
                self._checked(open_source(data, batch_size, limit, 0, 1))
            except ValueError as error:
                mistake = str(error)
            self._compared = (data, limit, shares.compare(data, limit, mistake))
        return self._compared[2]

    def _checked(self, source):
        shape = tf.TensorShape(getattr(self.model, "input_shape", None))[1:]
        if not shape.is_compatible_with(source.image_shape):
            raise ValueError(
                f"data must have images of shape {shape}, which model {self.model.name!r} takes; "
                f"received {source.image_shape}"
            )
        outputs = getattr(self.model, "outputs", None)
        num_classes = outputs[0].shape[-1] if outputs else None
        if None not in (num_classes, source.num_classes) and num_classes != source.num_classes:
            raise ValueError(
                f"data must have {num_classes} classes, as the outputs of model "
                f"{self.model.name!r}; received {source.num_classes}"
            )
        return source

    def outcomes(self, network, images, labels, indices):
        """What became of each image of a batch.

        Args:
            network: A `Network`.
            images: `[batch, ...]`.
            labels: int32 `[batch]`.
            indices: int64 `[batch]`; -1 for padding, which is neither right nor hit.

        Returns:
            A boolean array `[1 + numbers of steps, 3, batch]`, of clean images first: classified
            right, attack succeeded, right but wrong in the row before.
        """
        images = tf.cast(images, tf.float32)
        if self.value_range is not None:
            checks.images(images, self.value_range)
        real, where = indices >= 0, {number: i for i, number in enumerate(self.num_steps, 1)}
        found = np.zeros([1 + len(self.num_steps), 3, len(labels)], bool)
        found[0, 0] = network.predict(images).numpy() == labels
        checks.classes("labels", tf.constant(labels), network.num_classes)
        found[1:, 0] = True
        # An attack that cannot go on from where it is runs as a whole, with all its restarts.
        restarts = self.attack.restarts if self.num_steps and self.attack.advances else 1
        for step_size, numbers in self._groups.items():
            for restart in range(restarts):
                trajectory = self.trajectory(
                    network, images, labels, indices, step_size, numbers, restart
                )
                for number, adversarial, goals in trajectory:
                    predicted = network.predict(adversarial).numpy()
                    hit = predicted == goals if self.attack.targeted else predicted != labels
                    found[where[number], 0] &= predicted == labels
                    found[where[number], 1] |= hit
        found[1:, 2] = found[1:, 0] & ~found[:-1, 0]
        return found & real

    def trajectory(self, network, images, labels, indices, step_size, numbers, restart=0):
        """Attacks once, and yields the result of each of some numbers of steps.

        Args:
            network, images, labels, indices: As of `outcomes`; images as a tensor.
            step_size: In pixels of 255; None if the attack has none.
            numbers: Numbers of steps, ascending; `[None]` for an attack without steps.
            restart: Number of the restart, of an attack that advances; others run all of theirs.

        Yields:
            The number of steps, adversarial images, and the targets (untargeted: the labels) as an
            array.
        """
        if not self.attack.advances:
            for number in numbers:
                with checks.one_line():
                    adversarial, goals = self.attacks[number](
                        network,
                        images,
                        tf.constant(labels),
                        value_range=self.value_range,
                        seed=self._keys(indices),
                        num_classes=network.num_classes,
                        return_targets=True,
                    )
                watchdog.beat("after an attack")
                yield number, adversarial, goals.numpy()
            return
        start, goals = self.start(images, labels, indices, network.num_classes, restart)
        for number, current in self.advance(network, images, start, goals, step_size, numbers):
            yield number, current, goals.numpy()

    def advance(self, network, images, current, goals, step_size, numbers):
        """Goes on from some images, and yields the result of each of some numbers of steps.

        Args:
            network, images, step_size, numbers: As of `trajectory`.
            current: Where to begin.
            goals: Integers `[batch]`, as of the attack.

        Yields:
            The number of steps and the adversarial images.
        """
        done = 0
        for number in numbers:
            while done < number:
                steps = min(number - done, _STEPS_TO_REPORT)
                current = self.attack.advance(
                    network, images, current, goals, steps, step_size, self.value_range
                )
                done += steps
                watchdog.beat(f"behind step {done} of an attack")
            yield number, current

    def start(self, images, labels, indices, num_classes, restart=0):
        """Draws where the attack on a batch starts, not clipped to the range, and its goals."""
        keys = self._keys(indices)
        with checks.one_line():
            return self._start(images, tf.constant(labels), keys, tf.constant(restart), num_classes)

    def _keys(self, indices):
        keys = np.stack([np.full(len(indices), self.seed, np.int64), indices], axis=1)
        return tf.constant(keys)

    def _draw(self, images, labels, keys, restart, num_classes):
        return self.attack.start(
            images, labels, num_classes, keys, self.value_range, restart=restart
        )

    def step_size(self, number):
        """The step size of an attack of so many steps, in pixels of 255; None if it has none."""
        return self.attacks[number].effective_step_size

    def _result(self, domain, number, correct, hits, regained, total):
        counted = dict(
            domain=domain, num_steps=number, correct=correct, total=total, seed=self.seed
        )
        if number == 0:
            return Result(**counted)
        config = self.attack.get_config()
        if_any = ("step_size_rule", "loss", "start_from_clean", "clip_start")
        return Result(
            **counted,
            attack=self.attack.label,
            hits=hits,
            regained=regained,
            epsilon=self.attack.epsilon,
            step_size=self.step_size(number),
            targeted=self.attack.targeted,
            restarts=self.attack.restarts,
            precision=self.attack_precision,
            **{name: config.get(name) for name in if_any},
        )


def _numbers(attack, num_steps):
    if attack is None:
        if num_steps is not None:
            raise ValueError(f"num_steps must be None without an attack; received {num_steps!r}")
        return []
    if not isinstance(attack, Attack):
        raise ValueError(f"attack must be a tfadv.attacks.Attack or None; received {attack!r}")
    if attack.num_steps is None:
        if num_steps is not None:
            raise ValueError(
                f"num_steps must be None for {attack.name}, which has no steps; "
                f"received {num_steps!r}"
            )
        return [None]
    if num_steps is None:
        num_steps = attack.num_steps
    numbers = list(num_steps) if np.iterable(num_steps) else [num_steps]
    if not numbers:
        raise ValueError("num_steps must name at least one number of steps; received none")
    # No steps at all are clean images, which are reported anyway.
    return sorted({arguments.integer("num_steps", number, 1) for number in numbers})


def _domains(model, domains):
    domains = [domains] if isinstance(domains, str) else list(dict.fromkeys(domains))
    if not domains or not set(domains) <= {"adv", "clean"}:
        raise ValueError(f'domains must be of "adv" and "clean"; received {domains}')
    return domains if models.mixtures(model) else [None]
