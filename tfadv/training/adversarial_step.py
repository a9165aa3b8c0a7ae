import keras
import tensorflow as tf

from tfadv import distributed, keras_internals
from tfadv.models import Frozen, calling, ends_in_logits, logits, structures
from tfadv.training import metric_trials
from tfadv.training.agreement import Agreement
from tfadv.training.batches import Mixture, split
from tfadv.training.changes import Changes
from tfadv.training.communication import Communication
from tfadv.training.extremes import Extremes
from tfadv.training.faults import Faults
from tfadv.training.losses import mixture_loss
from tfadv.training.meters import Meters
from tfadv.training.requests import Requests


class AdversarialStep:
    """One step of adversarial training: attack, forward and backward, all-reduce, update.

    For every batch of `b` clean images it makes `b` adversarial ones with the network as it is at
    inference (moving statistics, adv domain: pipeline), and takes one step on Eq. 1 over both,
    in one forward and backward pass. All that the workers have to agree on travels in one ordered
    collective operation, which no branch of the graph can skip.

    Args:
        model: A compiled Keras model, images -> classes.
        attack: A `tfadv.attacks.Attack`, or None to train on clean images alone.
        value_range: `(low, high)` of the images.
        clean_ratio: Float in [0, 1], the share of clean images kept beside adversarial ones.
        clean_weight: Float in [0, 1], alpha of Eq. 1; None weights by the counts.
        pairing_weight: Float, the weight of adversarial logit pairing.
        accumulation_steps: Integer, how many parts of a batch share one update.
        seed: Integer; with the step and the worker it keys all random draws.
        rematerialize, attack_precision: As of `AdversarialTraining`.
        compression: `"none"` or `"fp16"`, of gradients between workers.

    Attributes:
        running_statistics: Boolean, whether batch normalization trains on its moving statistics
            (Section 4.3). Read when the step is traced.
        meters: The `Meters` of this epoch.
        requests: The workers' `Requests` of each other: to `"stop"`, or to write a `"checkpoint"`.
        agreement: The `Agreement` of the workers on each update.
        communication: The `Communication` between workers; None for one.
        faults: `Faults`: the updates that were left out.
        extremes: The `Extremes` of images and outputs, which may call for a warning.

    Call arguments:
        data: What Keras gives a `train_step`: `(images, labels)` or `(images, labels, weights)`.

    Returns:
        A dictionary of scalar tensors: the compiled metrics, over the whole mini-batch, and
        `loss`, `adv_loss`, `adv_accuracy`, `attack_success`, `clean_loss` and `clean_accuracy`,
        as means over the images of all workers in this epoch so far; what else a model's own
        `compute_metrics` returns, of the last part and as a mean over workers; and of several
        workers `communication_share`.
    """

    def __init__(
        self,
        model,
        attack,
        value_range,
        clean_ratio=1.0,
        clean_weight=None,
        pairing_weight=0.0,
        accumulation_steps=1,
        seed=0,
        rematerialize="none",
        attack_precision="float32",
        compression="none",
    ):
        self.model = model
        self.attack = attack
        self.value_range = value_range
        self.clean_ratio = clean_ratio
        self.clean_weight = clean_weight
        self.pairing_weight = pairing_weight
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.rematerialize = rematerialize
        self.compression = compression
        self.running_statistics = False
        attacked = ("adv",) if attack is not None else ()
        clean = ("clean",) if attack is None or clean_ratio > 0 else ()
        self.meters = Meters(attacked + clean, targeted=attack is None or attack.targeted)
        self.requests = Requests("stop", "checkpoint")
        self.agreement = Agreement(model.optimizer)
        self.communication = Communication() if distributed.size() > 1 else None
        self.faults = Faults()
        self._own_results = []
        # Through a final softmax the attack's gradient is zero in float32.
        self._attacked_network = Frozen(
            logits(model), "adv", attack_precision, rematerialize=rematerialize == "all"
        )
        self.extremes = Extremes(value_range, logits=ends_in_logits(model))

    def build(self, spec):
        """Builds what the compiled loss and metrics need, before the first call.

        Metrics get their variables with their first batch, which would be lost to them here; and
        variables made inside of a `tf.function` have it traced a second time.

        Args:
            spec: The `tf.TypeSpec`s of what the step will be called with.

        Raises:
            ValueError: For several tensors of images, labels, weights or outputs; and, with several
                workers, for a metric that is no sum over images.
        """
        spec = tf.nest.map_structure(lambda s: s if isinstance(s, tf.TensorSpec) else None, spec)
        parts = keras.utils.unpack_x_y_sample_weight(spec)
        for part, name in zip(parts, ("images", "labels", "weights"), strict=True):
            structures.single(part, name)
        outputs = calling.output_spec(self.model, parts[0])
        keras_internals.build_compiled(self.model, spec)
        self._own_results = metric_trials.own_results(self.model, *parts, outputs)
        if distributed.size() > 1:
            metric_trials.check_sums(self.model, *parts, outputs)

    def __call__(self, data):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        labels = tf.nest.map_structure(tf.convert_to_tensor, labels)
        communication = self.communication
        if communication is not None:
            communication.begin(structures.single(images, "images"))
        changes = Changes(
            self.model,
            self.meters.shape,
            self.faults,
            self.compression,
            communication,
            self.agreement,
        )
        parts, abandoned = self.accumulation_steps, False
        metrics, own = changes.metric_states(), tf.zeros([len(self._own_results)])
        if parts == 1:
            sums, metrics, own = self._part(changes, metrics, images, labels, weights, 0)
        else:
            stacked = split((images, labels, weights), parts)

            def body(part, sums, metrics, _):
                taken = tf.nest.map_structure(lambda t: None if t is None else t[part], stacked)
                added, metrics, own = self._part(changes, metrics, *taken, part)
                sums = [total + new for total, new in zip(sums, added, strict=True)]
                return part + 1, sums, metrics, own

            def goes_on(part, sums, *_):
                with tf.control_dependencies(sums):  # after each part, not before
                    return (part < 1) | ((part < parts) & ~self.requests.hurried)

            part, sums, metrics, own = tf.while_loop(
                goes_on, body, (0, changes.zeros(), metrics, own), parallel_iterations=1
            )
            abandoned = part < parts
        # As late as possible: what was asked in the meantime counts already.
        with tf.control_dependencies(sums):
            asked = self.requests.asked
        if communication is not None:
            asked = tf.concat([asked, communication.measured], axis=0)
        counts, answers = changes.apply(
            sums, metrics, parts, tf.concat([asked, own], axis=0), abandoned
        )
        answers, own = tf.split(answers, [asked.shape[0], own.shape[0]])
        number = len(self.requests.names)
        self.requests.agree(answers[:number])
        results = {**self.model.get_metrics_result(), **self.meters.add(counts)}
        results.update(zip(self._own_results, tf.unstack(own), strict=True))
        if communication is not None:
            results |= communication.add(answers[number:])
        return results

    def results(self):
        """The means of this epoch so far, as `__call__` returns them."""
        results = {**self.model.get_metrics_result(), **self.meters.results()}
        return results | (self.communication.results() if self.communication else {})

    def reset(self):
        """Starts a new epoch: what this step, and not the model, has means of."""
        self.meters.reset()
        if self.communication is not None:
            self.communication.reset()

    @property
    def sums(self):
        """What the epoch's means are made of so far, as a dictionary of nested lists of numbers."""
        metrics = [variable.numpy().tolist() for variable in self.model.metrics_variables]
        return {"metrics": metrics, "meters": self.meters.sums.numpy().tolist()}

    @sums.setter
    def sums(self, sums):
        for variable, value in zip(self.model.metrics_variables, sums["metrics"], strict=True):
            variable.assign(value)
        self.meters.sums.assign(sums["meters"])

    def _part(self, changes, metrics, images, labels, weights, part):
        images = tf.nest.map_structure(lambda each: tf.cast(each, tf.float32), images)
        adversarial, goals = self._attacked(images, labels, part)
        batch = Mixture(images, adversarial, labels, weights, self.clean_ratio)
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
                )
            # And so what the model's loss and metrics assign.
            with changes.after(layers, metrics) as state:
                loss, by_domain = mixture_loss(
                    self.model, batch, outputs, self.clean_weight, self.pairing_weight
                )
            loss += sum(tf.cast(tf.reduce_sum(extra), loss.dtype) for extra in layers.losses)
            scaled = self.model.optimizer.scale_loss(loss)
        self.extremes.add(
            structures.single(images, "images"), structures.single(outputs, "outputs")
        )
        gradients = tape.gradient(scaled, [v.value for v in changes.trainable])
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

    def _attacked(self, images, labels, part):
        """Adversarial images, in the structure of the images, and what the attack aimed at."""
        if self.attack is None:
            return None, None
        outputs = getattr(self.model, "outputs", None)
        adversarial, goals = self.attack(
            self._attacked_network,
            structures.single(images, "images"),
            structures.single(labels, "labels"),
            value_range=self.value_range,
            seed=self._key(part),
            num_classes=outputs[0].shape[-1] if outputs else None,
            return_targets=True,
        )
        return structures.like(images, adversarial), goals

    def _key(self, part):
        # One worker with two parts draws what two workers with one part each draw.
        worker = distributed.rank() * self.accumulation_steps + part
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(worker, tf.int64)])
        # Batches, where `iterations` counts updates: Keras too can accumulate gradients.
        step = tf.cast(keras_internals.batch_counter(self.model.optimizer).value, tf.int64)
        return tf.random.fold_in(seed, step, alg="philox")
