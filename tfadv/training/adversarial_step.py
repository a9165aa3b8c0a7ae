import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfadv import distributed, keras_internals, startup
from tfadv.attacks import Attack
from tfadv.evaluation.networks import Networks
from tfadv.models import calling, ends_in_logits, structures
from tfadv.training import metric_trials
from tfadv.training.agreement import Agreement
from tfadv.training.batches import Mixture, split
from tfadv.training.changes import Changes
from tfadv.training.losses import mixture_loss
from tfadv.training.meters import Communication, Extremes, Meters


@dataclasses.dataclass(eq=False, repr=False)
class AdversarialStep:
    """One step of adversarial training: attack, forward and backward pass, all-reduce, update.

    For every batch of `b` clean images the attack makes `b` adversarial ones with the network as it
    is at inference (moving statistics, adv domain). Then the step minimizes Eq. 1 over both, in one
    forward and backward pass. All that the workers have to agree on is sent in one ordered
    collective operation, which no branch of the graph can skip.

    Args:
        model: A compiled Keras model, images -> classes.
        attack: A `tfadv.attacks.Attack`, or None to train on clean images alone.
        value_range: `(low, high)` of the images.
        clean_ratio: Float in [0, 1], the share of clean images kept beside adversarial ones.
        clean_weight: Float in [0, 1], alpha of Eq. 1; None weights by the counts.
        pairing_weight: Float, the weight of adversarial logit pairing.
        batch_statistics: As in `AdversarialTraining`.
        accumulation_steps: Integer, how many parts of a batch share one update.
        attack_parts: Integer, how many of these parts are attacked together.
        seed: Integer; together with the step and the worker it determines all random draws.
        rematerialize, attack_precision, jit_compile: As in `AdversarialTraining`.
        compression: `"none"` or `"fp16"`, of the gradients between workers.

    Attributes:
        running_statistics: Boolean, whether batch normalization trains on its moving statistics
            (Section 4.3). Read when the step is traced.
        meters: The `Meters` of this epoch.
        agreement: The `Agreement` of the workers on each update.
        communication: The `Communication` between workers; None with a single one.
        networks: The `Networks` of the model. An evaluation that takes its network from here is
            attacked in the graph of this step, if it attacks as many images at a time, in the same
            precision.
        extremes: The `Extremes` of images and outputs, which may call for a warning.

    Call arguments:
        data: As for a `train_step` of Keras: `(images, labels)` or `(images, labels, weights)`.

    Returns:
        A dictionary of scalar tensors: the compiled metrics, over the whole mini-batch; `loss`,
        `adv_loss`, `adv_accuracy`, `attack_success`, `clean_loss` and `clean_accuracy`, as means
        over the images of all workers in this epoch so far; what else a model's own
        `compute_metrics` returns, for the last part and as a mean over the workers; and with
        several workers `communication_share`.
    """

    model: keras.Model
    attack: Attack | None
    value_range: tuple[float, float] | None
    clean_ratio: float = 1.0
    clean_weight: float | None = None
    pairing_weight: float = 0.0
    batch_statistics: str = "together"
    accumulation_steps: int = 1
    attack_parts: int = 1
    seed: int = 0
    rematerialize: str = "none"
    attack_precision: str = "float32"
    jit_compile: bool | None = None
    compression: str = "none"

    def __post_init__(self) -> None:
        model, attack = self.model, self.attack
        self.running_statistics = False
        adv = ("adv",) if attack is not None else ()
        clean = ("clean",) if attack is None or self.clean_ratio > 0 else ()
        self.meters = Meters(adv + clean, targeted=attack is None or attack.targeted)
        self.agreement = Agreement(model.optimizer)
        self.communication = Communication() if distributed.size() > 1 else None
        self._own_results: list[str] = []
        self.networks = Networks(model)
        self._attacked_network()
        self.extremes = Extremes(self.value_range, logits=ends_in_logits(model))

    def build(self, spec: Any) -> None:
        """Builds what the compiled loss and metrics need, before the first call.

        Metrics make their variables with their first batch, which would then be lost to them; and
        a `tf.function` that makes variables is traced a second time.

        Args:
            spec: The `tf.TypeSpec`s of the data of the calls.

        Raises:
            ValueError: For several tensors of images, labels, weights or outputs; and, with several
                workers, for a metric that is not a sum over images.
        """
        spec = tf.nest.map_structure(lambda s: s if isinstance(s, tf.TensorSpec) else None, spec)
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(spec)
        structures.single(images, "images")
        structures.single(labels, "labels")
        structures.single(weights, "weights")
        data = images, labels, weights, calling.output_spec(self.model, images)
        keras_internals.build_compiled(self.model, spec)
        self._own_results = metric_trials.own_results(self.model, *data)
        if distributed.size() > 1:
            metric_trials.check_sums(self.model, *data)

    def __call__(self, data: Any) -> dict[str, tf.Tensor]:
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        labels = tf.nest.map_structure(tf.convert_to_tensor, labels)
        communication = self.communication
        if communication is not None:
            communication.begin(structures.single(images, "images"))
        changes = Changes(
            self.model, self.meters.sums.shape, self.agreement, self.compression, communication
        )
        parts, abandoned = self.accumulation_steps, False
        metrics, own = changes.metric_states(), tf.zeros([len(self._own_results)])
        if parts == 1:
            images = _floating(images)
            attacked = self._attacked(images, labels, self._key(0))
            sums, metrics, own = self._part(changes, metrics, (images, labels, weights), attacked)
        else:
            part, sums, metrics, own = self._accumulated(
                changes, (images, labels, weights), (0, changes.zeros(), metrics, own)
            )
            abandoned = part < parts
        measured = tf.zeros([0]) if communication is None else communication.measured
        counts, values = changes.apply(
            sums, metrics, parts, tf.concat([measured, own], axis=0), abandoned
        )
        measured, own = tf.split(values, [measured.shape[0], own.shape[0]])
        results = {**self.model.get_metrics_result(), **self.meters.add(counts)}
        results.update(zip(self._own_results, tf.unstack(own), strict=True))
        if communication is not None:
            results |= communication.add(measured)
        return results

    def results(self) -> dict[str, tf.Tensor]:
        """The means of this epoch so far, as `__call__` returns them."""
        results = {**self.model.get_metrics_result(), **self.meters.results()}
        return results | (self.communication.results() if self.communication else {})

    def reset(self) -> None:
        """Starts a new epoch for the means that are this step's and not the model's."""
        self.meters.reset()
        if self.communication is not None:
            self.communication.reset()

    @property
    def sums(self) -> dict[str, list]:
        """The sums of the epoch's means so far, as a dictionary of nested lists of numbers."""
        metrics = [variable.numpy().tolist() for variable in self.model.metrics_variables]
        return {"metrics": metrics, "meters": self.meters.sums.numpy().tolist()}

    @sums.setter
    def sums(self, sums: dict[str, list]) -> None:
        for variable, value in zip(self.model.metrics_variables, sums["metrics"], strict=True):
            variable.assign(value)
        self.meters.sums.assign(sums["meters"])

    def _accumulated(self, changes, data, state):
        """Adds up the changes by the parts of a batch, unless a signal hurries the workers.

        Args:
            changes: The `Changes`.
            data: Images, labels and weights.
            state: Number of the first part, sums, metrics and own results before it.

        Returns:
            The state after the last part.
        """
        parts, together = self.accumulation_steps, self.attack_parts

        def goes_on(first, last):
            def condition(part, sums, *_):
                with tf.control_dependencies(sums):  # after each part, not before
                    return (part < first + 1) | ((part < last) & ~self.agreement.hurried)

            return condition

        def add(state, data, attacked):
            part, sums, metrics, _ = state
            added, metrics, own = self._part(changes, metrics, data, attacked)
            sums = [total + new for total, new in zip(sums, added, strict=True)]
            return part + 1, sums, metrics, own

        stacked = split(data, parts)
        if together == 1:

            def body(part, *rest):
                images, labels, weights = _at(stacked, part)
                images = _floating(images)
                attacked = self._attacked(images, labels, self._key(part))
                return add((part, *rest), (images, labels, weights), attacked)

        else:
            # A group is attacked in one call; batch statistics are taken part by part.
            def body(first, *rest):
                images, labels, weights = _at(stacked, first, together)
                images = _floating(images)
                keys = tf.stack([self._key(first + place) for place in range(together)])
                attacked = self._attacked(images, labels, keys)
                group = split(((images, labels, weights), attacked), together)
                return tf.while_loop(
                    goes_on(first, first + together),
                    lambda part, *rest: add((part, *rest), *_at(group, part - first)),
                    (first, *rest),
                    parallel_iterations=1,
                )

        return tf.while_loop(goes_on(0, parts), body, state, parallel_iterations=1)

    def _part(self, changes, metrics, data, attacked):
        (images, labels, weights), (adversarial, goals) = data, attacked
        batch = Mixture(images, adversarial, labels, weights, self.clean_ratio)
        if self._uses_xla():
            given = metrics, images, adversarial, labels, weights
            outputs, gradients, loss, by_domain, held = self._compiled_pass(changes)(*given)
            state = changes.holding(held, metrics)
        else:
            outputs, gradients, loss, by_domain, state = self._pass(changes, metrics, batch)
        self.extremes.add(
            structures.single(images, "images"), structures.single(outputs, "outputs")
        )
        with state:
            results = self.model.compute_metrics(
                batch.images, batch.labels, outputs, sample_weight=batch.weights
            )
        own = [tf.cast(results[name], tf.float32) for name in self._own_results]
        counts = self.meters.measure(batch, outputs, loss, by_domain, goals)
        return (
            changes.collect(gradients, state, counts),
            changes.metric_states(state),
            tf.stack(own) if own else tf.zeros([0]),
        )

    def _uses_xla(self):
        if self.jit_compile is not None:
            return self.jit_compile
        layers = keras_internals.flatten_layers(self.model)
        return bool(tf.config.get_visible_devices("GPU")) and all(
            getattr(layer, "supports_jit", True) for layer in layers
        )

    def _compiled_pass(self, changes):
        """`_pass`, compiled by XLA: tensors in, tensors out.

        XLA gets nothing that changes a variable, that asserts anything or that other workers must
        see: these stay outside, as do the metrics, which may hold any operation.
        """

        startup.repeat_names()

        @tf.function(jit_compile=True, autograph=False)
        def compiled(metrics, images, adversarial, labels, weights):
            # Made in here, where XLA knows the sizes as numbers.
            batch = Mixture(images, adversarial, labels, weights, self.clean_ratio)
            outputs, gradients, loss, by_domain, state = self._pass(changes, metrics, batch)
            dense = [None if slope is None else tf.convert_to_tensor(slope) for slope in gradients]
            return outputs, dense, loss, by_domain, changes.held(state)

        return compiled

    def _pass(self, changes, metrics, batch):
        """The forward and backward pass over a part: outputs, gradients, losses, and state."""
        with tf.GradientTape() as tape:
            # The scope holds back what the layers assign, until all workers agree on it.
            with keras.StatelessScope(collect_losses=True) as layers:
                outputs = calling.run(
                    self.model,
                    batch.images,
                    training=True,
                    domain=batch.domain,
                    running_statistics=self.running_statistics,
                    rematerialize=self.rematerialize != "none",
                    apart=self.batch_statistics == "apart",
                )
            # The same for what the model's loss and metrics assign.
            with changes.after(layers, metrics) as state:
                loss, by_domain = mixture_loss(
                    self.model, batch, outputs, self.clean_weight, self.pairing_weight
                )
            loss += sum(tf.cast(tf.reduce_sum(extra), loss.dtype) for extra in layers.losses)
            scaled = self.model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in changes.trainable])
        return outputs, gradients, loss, by_domain, state

    def _attacked_network(self):
        return self.networks("adv", self.attack_precision, self.rematerialize == "all")

    def _attacked(self, images, labels, seed):
        """The adversarial images, in the structure of the images, and the attack's targets."""
        if self.attack is None:
            return None, None
        outputs = getattr(self.model, "outputs", None)
        adversarial, goals = self.attack(
            self._attacked_network(),
            structures.single(images, "images"),
            structures.single(labels, "labels"),
            value_range=self.value_range,
            seed=seed,
            num_classes=outputs[0].shape[-1] if outputs else None,
            return_targets=True,
        )
        return structures.like(images, adversarial), goals

    def _key(self, part):
        # One worker with two parts draws what two workers with one part each draw.
        worker = distributed.rank() * self.accumulation_steps + part
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(worker, tf.int64)])
        # Batches; `iterations` counts updates, and Keras can accumulate gradients too.
        step = tf.cast(keras_internals.batch_counter(self.model.optimizer).value, tf.int64)
        return tf.random.fold_in(seed, step, alg="philox")


def _floating(images):
    return tf.nest.map_structure(lambda each: tf.cast(each, tf.float32), images)


def _at(stacked, part, count=None):
    """Some parts of what `split` returned, by the number of the first; None takes that one."""

    def pick(tensor):
        if tensor is None or count is None:
            return None if tensor is None else tensor[part]
        size, *shape = tensor.shape[1:]
        return tf.reshape(tensor[part : part + count], [count * size, *shape])

    return tf.nest.map_structure(pick, stacked)
