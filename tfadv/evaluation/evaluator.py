"""Clean accuracy, robust accuracy and attack success of a model over a data set."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv import arguments, distributed, models, watchdog
from tfadv.attacks import Attack, checks
from tfadv.evaluation import shares
from tfadv.evaluation.journal import Journal
from tfadv.evaluation.networks import Network, Networks
from tfadv.evaluation.runs import Queues, Run
from tfadv.evaluation.sources import Source, open_source
from tfadv.results import Result

# A batch under PGD-2000 may take longer than the watchdog waits, so steps are reported in between.
_STEPS_PER_BEAT = 100


def evaluate(
    model: keras.Model,
    data: Any,
    attack: Attack | None = None,
    num_steps: int | Iterable[int] | None = None,
    domains: str | Iterable[str] = ("adv",),
    batch_size: int = 64,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    attack_precision: str = "float32",
    journal: Journal | None = None,
) -> list[Result]:
    """Measures clean accuracy and, under attack, robust accuracy and attack success.

    Every image counts once, whatever the number of workers: each worker takes the images whose
    index is its rank modulo their number, all batches are padded to one shape, and whole counts are
    summed. The seed and an image's index determine its targets and starts, so that it is attacked
    in the same way by any number of workers and in any batch.

    Numbers of steps that share a step size (after the attack's rule) share one trajectory, which is
    read as it passes each of them: PGD-20, 100, 500 and 2000 together cost 2000 steps and give the
    bits of separate runs. PGD-10 of the paper, whose step size is raised to 1.6, runs alone. An
    attack that cannot continue (`tfadv.attacks.Attack.advances`) starts over for each number.

    With `attack.restarts` above 1, an image is robust only if it is classified correctly after each
    restart, and the attack succeeds if any restart does, for each number of steps.

    Args:
        model: A Keras model, images -> classes. The attack leaves out a final softmax, sigmoid or
            tanh, as `tfadv.models.logits` does.
        data: A `tfadv.data.Dataset` (its validation images), a pair (images, labels) of arrays, or
            a batched `tf.data.Dataset` of such pairs, which must always give them in the same
            order. Labels are sparse or one-hot. Images are in `value_range`. Every worker gives
            either all images or a share of its own; workers compare checksums of them, which reads
            a `tf.data.Dataset` once more.
        attack: A `tfadv.attacks.Attack`, or None for clean images only. (The paper evaluates with
            `start_from_clean=0`.)
        num_steps: Integer or list of integers, at least 1; None for the attack's own, or for an
            attack without steps.
        domains: Any of `"adv"` and `"clean"`: the branches of a mixture to attack and report, each
            by itself. The results of a model without a mixture have the domain None.
        batch_size: Images per worker.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        seed: Integer.
        limit: Evaluates only the first `limit` images, over all workers; None for all.
        progress: Function of (batches so far, all batches or None if unknown), called after each
            batch, such as `progress_bar()`; or None.
        attack_precision: Precision in which the attack computes, `"float32"`, `"bfloat16"` or
            `"float16"`, as of `tfadv.models.Frozen`. The adversarial images are then always
            classified by the model as it is.
        journal: A `tfadv.evaluation.Journal`, with which an evaluation that was killed resumes
            without attacking any image again; or None.

    Returns:
        A list of `Result`, the same on every worker: for each domain first the clean images, then
        each number of steps, ascending.

    Raises:
        ValueError: For arguments outside of these rules, data that do not fit the model, images
            outside of the range, or a model that gives the attack no gradient.

    Example:

    ```python
    results = tfadv.evaluation.evaluate(
        model, (test_images, test_labels), attack, num_steps=[1, 3]
    )
    print(tfadv.evaluation.table(results))
    ```
    """
    evaluator = Evaluator(model, attack, num_steps, domains, value_range, seed, attack_precision)
    return evaluator(data, batch_size, limit, progress, journal)


class Evaluator:
    """Evaluates a model any number of times, for example between epochs, but compiles it only once.

    Args:
        model, attack, num_steps, domains, value_range, seed, attack_precision: As in `evaluate`.
        networks: The `tfadv.evaluation.networks.Networks` of the model that others use too, such
            as those of a training; None makes new ones.

    Call arguments:
        data, batch_size, limit, progress, journal: As in `evaluate`.

    Returns:
        A list of `Result`, as of `evaluate`.

    Attributes:
        num_steps: List of integers, ascending; `[None]` for an attack without steps.
        attacks: Dictionary, each of `num_steps` -> the attack with this number of steps.
        domains: List of `"adv"` and `"clean"`; `[None]` for a model without a mixture.
        networks: List of `Network`, one for each domain.
        outcomes_by_index: Dictionary, index of each image of this worker in the last call -> its
            boolean array `[domains, rows, 3]`, as of `outcomes`.

    Example:

    ```python
    evaluator = tfadv.evaluation.Evaluator(model, attack)
    for _ in range(2):
        model.fit(images, labels)
        clean, robust = evaluator((test_images, test_labels))
        print(clean.accuracy, robust.accuracy)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        attack: Attack | None = None,
        num_steps: int | Iterable[int] | None = None,
        domains: str | Iterable[str] = ("adv",),
        value_range: tuple[float, float] | None = None,
        seed: int = 0,
        attack_precision: str = "float32",
        networks: Networks | None = None,
    ) -> None:
        models.check_classifier(model)
        models.check_outputs(model, attacked=attack is not None)
        models.check_evaluation(model)
        self.model = model
        self.attack: Any = attack
        self.num_steps = _numbers(attack, num_steps)
        self.attacks: dict[Any, Attack] = {}
        if attack is not None:
            self.attacks = {number: attack.with_steps(number) for number in self.num_steps}
        self.domains = _domains(model, domains)
        self.seed = arguments.integer("seed", seed, 0)
        self.value_range = None
        if attack is not None or value_range is not None or models.contract(model) is not None:
            self.value_range = checks.value_range(models.value_range(model, value_range))
        self.attack_precision = attack_precision
        networks = networks or Networks(model)
        self.networks = [networks(domain, attack_precision) for domain in self.domains]
        self.outcomes_by_index: dict[int, np.ndarray] = {}
        # Step size -> numbers of steps, ascending, on one trajectory.
        self._groups: dict[float | None, list[Any]] = {}
        for number in self.num_steps:
            self._groups.setdefault(self.step_size(number), []).append(number)
        self._start = tf.function(self._draw, autograph=False)
        self._compared = None  # data and limit that the workers compared last, and the division

    def __call__(
        self,
        data: Any,
        batch_size: int = 64,
        limit: int | None = None,
        progress: Callable[[int, int | None], None] | None = None,
        journal: Journal | None = None,
    ) -> list[Result]:
        source = self.open(data, batch_size, limit)
        shape = (len(self.domains), 1 + self._num_rows, 3)
        known: dict[int, np.ndarray] = {}
        begun: dict[int, tuple[np.ndarray, int]] = {}
        spent: dict[Any, tuple] = {}
        if journal is not None:
            if source.division is not None:
                journal.narrow(division=source.division)
            # The journals of all workers, because an image may now be another worker's.
            journals = journal.read(shape), journal.read_unfinished(shape), journal.read_costs()
            for finished, unfinished, costs in distributed.gather_object(journals):
                known |= finished
                begun |= unfinished
                spent |= costs
        size, rank = distributed.size(), distributed.rank()
        mine = {
            index: outcomes
            for index, outcomes in known.items()
            if index % size == rank and (limit is None or index < limit)
        }
        queues = Queues(self, source.batch_size, shape, mine, journal)
        shown = read = 0

        def show():
            nonlocal shown
            unread = (source.num_batches or read) - read
            done = int((read + unread) * queues.share_done(unread) + 1e-6)
            if progress is not None and done > shown:
                shown = done
                progress(done, source.num_batches)

        for read, (images, labels, indices) in enumerate(source.unpadded(known), 1):
            for image, label, index in zip(images, labels, indices.tolist(), strict=True):
                queues.put(image, label, index, *begun.get(index, ()))
            queues.known += source.batch_size - len(indices)
            while queues.attack(full_only=True):
                pass
            watchdog.beat(f"after batch {read} of an evaluation")
            show()
        while queues.attack():
            show()
        if progress is not None and source.num_batches is None:
            progress(read, read)
        self.outcomes_by_index = mine
        own = sum(mine.values(), np.zeros(shape, np.int64))
        costs = np.zeros([len(self.domains), max(1, self._num_rows), 3])
        for place, cost in queues.costs.items():
            costs[place] += cost
        for domain, part, *cost in spent.values() if rank == 0 else ():  # before a kill
            costs[domain, part] += cost
        # Every worker reaches this collective operation, whatever its batches were.
        total, *sums = distributed.total([len(mine), *own.ravel(), *costs.ravel()])
        if not total:
            raise ValueError("data must hold at least one image; received none")
        by_domain = np.reshape(sums[: own.size], shape).round().astype(int).tolist()
        costs = np.reshape(sums[own.size :], costs.shape).tolist()
        results = []
        for domain, (clean, *rows), cost in zip(self.domains, by_domain, costs, strict=True):
            results.append(self._result(domain, 0, clean, round(total)))
            if self._is_ensemble:
                of_parts = [part.label for part in self.attack.members]
                remaining = dict(zip(of_parts, (row[0] for row in rows), strict=True))
                cost = {
                    label: {"images": round(images), "passes": round(passes), "seconds": seconds}
                    for label, (images, passes, seconds) in zip(of_parts, cost, strict=True)
                }
                results.append(self._result(domain, None, rows[-1], round(total), remaining, cost))
                continue
            for number, row in zip(self.num_steps, rows, strict=True):
                results.append(self._result(domain, number, row, round(total)))
        return results

    def correct_images(self) -> np.ndarray:
        """Collects which images the last call found classified correctly, of all workers.

        All workers must call it together.

        Returns:
            A boolean array `[results, images]`: a row for each `Result` of the call, in their
            order, and the images in the order of their indices.
        """
        by_index: dict[int, np.ndarray] = {}
        for outcomes in distributed.gather_object(self.outcomes_by_index):
            by_index.update(outcomes)
        # [images, domains, rows] -> a row for each domain and number of steps
        correct = np.stack([by_index[index][..., 0] for index in sorted(by_index)])
        if self._is_ensemble:
            correct = correct[..., [0, -1]]
        return correct.reshape(len(correct), -1).T

    @property
    def attack_config(self) -> dict[str, Any] | None:
        """The attack's label and settings, as plain values; None without an attack."""
        if self.attack is None:
            return None
        return {"label": self.attack.label, **self.attack.get_config()}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the outcomes depend on, besides model and data, as plain values."""
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

    def open(self, data: Any, batch_size: int = 64, limit: int | None = None) -> Source:
        """Opens data for this worker, after checking that they fit the model.

        All workers must call it together: they compare their data, unless they compared the same
        data before.

        Args:
            data, batch_size, limit: As in `evaluate`.

        Returns:
            A `tfadv.evaluation.sources.Source`.

        Raises:
            ValueError: If the data do not fit, or if the workers hold neither all images each nor
                a share of its own each.
        """
        batch_size = arguments.integer("batch_size", batch_size, 1)
        if limit is not None:
            limit = arguments.integer("limit", limit, 1)
        rank, size = distributed.rank(), distributed.size()
        if size == 1:
            return self._checked(open_source(data, batch_size, limit, rank, size))
        division = self._division(data, batch_size, limit)
        return open_source(data, batch_size, limit, rank, size, division)

    def _division(self, data, batch_size, limit):
        """Compares the data of all workers; returns the `division` of a `Source`."""
        is_known = False
        if self._compared is not None:
            compared, compared_limit, _ = self._compared
            is_known = compared is data and (compared_limit or np.inf) >= (limit or np.inf)
        if not all(distributed.gather_object(is_known)):
            source = error = None
            try:
                source = self._checked(open_source(data, batch_size, limit, 0, 1))
            except ValueError as raised:
                error = str(raised)
            self._compared = data, limit, shares.compare(data, source, error)
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

    @property
    def _is_ensemble(self):
        return self.attack is not None and bool(self.attack.members)

    @property
    def _num_rows(self):
        return len(self.attack.members) if self._is_ensemble else len(self.num_steps)

    def runs(self, images: np.ndarray) -> list[Run]:
        """Lists what an image goes through: each branch's clean images, then each attack's runs.

        Args:
            images: A batch `[batch, ...]`, by which the networks find out their number of classes.
        """
        runs = []
        for domain, network in enumerate(self.networks):
            if network.num_classes is None:
                network.predict(tf.cast(images, tf.float32))
            runs.append(Run(domain, network, [], None, None, 0))
            if self._is_ensemble:
                # What a part fools is lost to all that follow.
                for row, part in enumerate(self.attack.members, 1):
                    rows = [list(range(row, 1 + self._num_rows))]
                    for number in range(part.runs(network.num_classes)):
                        runs.append(Run(domain, network, rows, part, None, number, row - 1))
            elif self.attack is not None and self.attack.advances:
                for step_size, numbers in self._groups.items():
                    rows = [[1 + self.num_steps.index(number)] for number in numbers]
                    for restart in range(self.attack.restarts):
                        runs.append(
                            Run(domain, network, rows, self.attack, (step_size, numbers), restart)
                        )
            else:
                for row, number in enumerate(self.num_steps, 1):
                    attack = self.attacks[number]
                    for each in range(attack.runs(network.num_classes)):
                        runs.append(Run(domain, network, [[row]], attack, None, each))
        return runs

    def outcomes(
        self,
        run: Run,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        so_far: np.ndarray,
    ) -> np.ndarray:
        """Classifies the images of a batch, or attacks them once.

        Args:
            run: One of `runs`.
            images: `[batch, ...]`.
            labels: int32 `[batch]`.
            indices: int64 `[batch]`; -1 for padding.
            so_far: Boolean array `[batch, domains, rows, 3]`: a row for clean images and one for
                each number of steps, or each part of an attack of several parts: classified
                correctly; attacked with success; classified correctly, but not in the row before.

        Returns:
            A copy of `so_far` that counts this run too.
        """
        images = tf.cast(images, tf.float32)
        outcomes = so_far.copy()
        correct, hit, _ = np.moveaxis(outcomes[:, run.domain], -1, 0)  # views [batch, rows]
        network = run.network
        if run.attack is None:
            if self.value_range is not None:
                checks.images(images, self.value_range)
            correct[:, 0] = network.predict(images).numpy() == labels
            checks.classes("labels", tf.constant(labels), network.num_classes)
            correct[:, 1:] = True
            if self.attack is not None and self.attack.spares_misclassified:
                correct[:, 1:] &= correct[:, :1]
                hit[:, 1:] = ~correct[:, 1:]
            return outcomes
        if run.steps is not None:
            trajectory = self.trajectory(network, images, labels, indices, *run.steps, run.number)
        else:
            given = run.attack, network, images, labels, indices
            trajectory = iter([(None, *self._attacked(*given, run.number))])
        for rows, (_, adversarial, goals) in zip(run.rows, trajectory, strict=True):
            predicted = network.predict(adversarial).numpy()
            correct[:, rows] &= (predicted == labels)[:, None]
            success = predicted == goals if self.attack.targeted else predicted != labels
            hit[:, rows] |= success[:, None]
        return outcomes

    def _attacked(self, attack, network, images, labels, indices, run=None):
        """Adversarial images and goals of an attack that does not advance; all runs, or one."""
        pieces = attack._pieces(
            network,
            images,
            tf.constant(labels),
            value_range=self.value_range,
            seed=self._keys(indices),
            num_classes=network.num_classes,
            run=None if run is None else tf.constant(run),
        )
        with checks.one_line():
            for so_far in pieces:
                adversarial, goals = so_far
                watchdog.beat("after an attack, or a piece of it")
        return adversarial, goals.numpy()

    def trajectory(
        self,
        network: Network,
        images: tf.Tensor,
        labels: np.ndarray,
        indices: np.ndarray,
        step_size: float | None,
        numbers: list[Any],
        restart: int = 0,
    ) -> Iterator[tuple[Any, tf.Tensor, np.ndarray]]:
        """Attacks a batch once and stops after each of some numbers of steps, ascending.

        Args:
            network, images, labels, indices: As in `outcomes`; images as a tensor.
            step_size: In pixels of 255; None if the attack has none.
            numbers: Numbers of steps; `[None]` for an attack without steps.
            restart: Number of the restart, of an attack that advances; others run all of theirs.

        Yields:
            The number of steps, adversarial images, and the targets (untargeted: the labels) as an
            array.
        """
        if not self.attack.advances:
            for number in numbers:
                attack = self.attacks[number]
                yield number, *self._attacked(attack, network, images, labels, indices)
            return
        start, goals = self.start(images, labels, indices, network.num_classes, restart)
        for number, current in self.advance(network, images, start, goals, step_size, numbers):
            yield number, current, goals.numpy()

    def advance(
        self,
        network: Any,
        images: tf.Tensor,
        current: tf.Tensor,
        goals: tf.Tensor,
        step_size: float | None,
        numbers: list[int],
    ) -> Iterator[tuple[int, tf.Tensor]]:
        """Continues an attack from `current`, whose goals are integers `[batch]`.

        Yields the number of steps and adversarial images, as `trajectory` does.
        """
        done = 0
        for number in numbers:
            while done < number:
                steps = min(number - done, _STEPS_PER_BEAT)
                current = self.attack.advance(
                    network, images, current, goals, steps, step_size, self.value_range
                )
                done += steps
                watchdog.beat(f"after step {done} of an attack")
            yield number, current

    def start(
        self,
        images: tf.Tensor,
        labels: np.ndarray,
        indices: np.ndarray,
        num_classes: int,
        restart: int = 0,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the start of an attack on a batch, not clipped to the range, and its targets."""
        keys = self._keys(indices)
        with checks.one_line():
            return self._start(images, tf.constant(labels), keys, tf.constant(restart), num_classes)

    def _keys(self, indices):
        return tf.constant(np.stack([np.full(len(indices), self.seed, np.int64), indices], axis=1))

    def _draw(self, images, labels, keys, restart, num_classes):
        return self.attack.start(
            images, labels, num_classes, keys, self.value_range, restart=restart
        )

    def step_size(self, number: int | None) -> float | None:
        """Returns the step size for `number` steps in pixels of 255; None if there is none."""
        return self.attacks[number].effective_step_size

    def _result(self, domain, number, counts, total, remaining=None, cost=None):
        correct, hits, regained = counts
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
            norm=None if self.attack.norm == "linf" else self.attack.norm,
            remaining=remaining,
            cost=cost,
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
    # 0 steps would be the clean images, which are reported anyway.
    return sorted({arguments.integer("num_steps", number, 1) for number in numbers})


def _domains(model, domains):
    domains = [domains] if isinstance(domains, str) else list(dict.fromkeys(domains))
    if not domains or not set(domains) <= {"adv", "clean"}:
        raise ValueError(f'domains must be of "adv" and "clean"; received {domains}')
    return domains if models.mixtures(model) else [None]
