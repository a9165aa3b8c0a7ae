from typing import Any

import keras
import tensorflow as tf

from tfadv import arguments, distributed, models, watchdog
from tfadv.attacks import Attack, checks
from tfadv.evaluation.networks import Networks
from tfadv.models import calling, contracts, rematerialization
from tfadv.training import AdversarialStep, Progress, TrainingError
from tfadv.training.lockstep import Lockstep


class AdversarialTraining(keras.callbacks.Callback):
    """Makes `fit` train adversarially.

    `loss = alpha * J(clean images) + (1 - alpha) * J(adversarial images)`   (Eq. 1)

    Any compiled classifier can be trained this way, with any optimizer, from NumPy arrays or a
    `tf.data.Dataset`, with sparse or one-hot labels and sample or class weights. The model stays a
    Keras model, and once `fit` ends, however it ends, it trains plainly again.

    The attack sees the network as it is at inference, through the adv branch of every mixture.
    Clean and adversarial images share one forward and backward pass.

    Under Horovod each worker takes its own batches, and all begin with the variables of rank 0.
    Gradients, moving statistics and metrics are averaged at every step, the metrics of
    `validation_data` at the end of the epoch: put callbacks that read the logs after this one. If
    the data of one worker end early, the epoch ends after the same update on all; if one stops
    (`model.stop_training`), all stop. It is an error if the workers differ in the epochs, the steps
    per epoch, the variables or, before any update, in a number of the optimizer, such as its
    learning rate.

    A model's own `compute_loss` and `compute_metrics` are used. Its own `train_step` is refused,
    because this callback makes the step, without the model's own `jit_compile`: XLA does not know
    its collective operations. On GPUs XLA compiles the attack and the pass of the update, each by
    itself.

    Args:
        attack: A `tfadv.attacks.Attack`, such as `tfadv.attacks.PGD`, also in L2 with its
            `norm="l2"`; None trains on clean images alone ("0% adv + 100% clean").
        clean_ratio: Float in [0, 1], the share of the clean images that stay in the mini-batch
            beside all adversarial ones (Section 4.1); rounded to whole images, halves up, and at
            least one image unless it is 0.
        clean_weight: Float in [0, 1], alpha of Eq. 1. None (default) takes the mean over all images
            of the mini-batch, which is alpha = 1/2 at a ratio of 100%.
        pairing_weight: Float, the weight of adversarial logit pairing, the mean squared difference
            of the paired logits. Needs clean images and a model that ends in logits.
        batch_statistics: `"together"` (default) normalizes adversarial and clean images with the
            statistics of the whole mini-batch (Section 4.1: "in each mini-batch"). `"apart"` uses
            those of each domain, as programs do that call the model once for each; both then move
            the same moving statistics, adversarial images first. Needs both kinds of images and a
            model with `tfadv.layers.BatchNormalization`; mixtures must share their statistics,
            since separate ones are apart anyway.
        accumulation_steps: Integer, how many parts of a batch share one update. Each part has its
            own batch statistics. Batches must have a fixed size that it divides.
        attack_parts: Integer that divides `accumulation_steps`, how many of these parts are
            attacked in one call. The draws are those of parts that are attacked alone, and so are
            the adversarial images, except for rounding; an attack needs no batch statistics. A GPU
            computes a large batch faster, and one part of an attack takes about half of the memory
            of an update's pass on the part and its clean images. None (default) attacks two parts
            together on GPUs, if there are two, all clean images stay, `rematerialize` is `"none"`
            and the attack `takes_parts`, and otherwise each part alone.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        seed: Integer, the seed of all random draws.
        rematerialize: Which passes compute activations again, block by block, instead of keeping
            them for the gradient: `"none"`, `"step"` (that of the update) or `"all"` (those of the
            attack too, where most of the time goes). For functional and sequential models that
            do not fit in memory; a subclassed one is refused. An attack keeps less than an update:
            inference needs less, and there are no clean images. (Evaluations keep all
            activations.)
        attack_precision: The precision in which the network is attacked, `"float32"`, `"bfloat16"`
            or `"float16"`, as in `tfadv.models.Frozen`. The pass of the update is not changed.
        jit_compile: Whether XLA compiles the forward and backward pass of the update, for each part
            of a batch. All that workers exchange, the metrics and the optimizer stay outside. The
            result differs by rounding, and by the draws of layers such as dropout, which XLA makes
            in its own way. None (default): on GPUs, unless a layer of the model says that XLA
            cannot compile it (`supports_jit`).
        compression: How gradients travel between workers: `"none"`, or `"fp16"` in half the bytes.
            They are then rounded to 11 bits, and those below 6e-8 vanish: this is not the paper's
            training, nor known to be as good. Moving statistics and metrics are not compressed.
        max_bad_steps: Integer, how many updates with a loss or gradient that is not finite all
            workers may skip before `fit` raises `TrainingError`. None of them changes the model.
        progress: The `Progress` of a resumed training, from `tfadv.training.checkpoints.restore`.
            `fit` counts the finished updates of its epoch without making them again or reading
            images: give it data that begin after them, all `steps_per_epoch`, and
            `initial_epoch=progress.epoch`.
        stall_seconds: Number; if no worker makes progress for this long, the job is aborted with
            one line that names the workers that hang. It must be longer than the longest step with
            its compilation, or than the work of other callbacks between two epochs; 0 disables it.

    Raises:
        ValueError: For an argument outside of these rules; and from `fit`, for a model or setting
            that it cannot train: a model that is not built, several inputs or outputs, an own
            `train_step`, a `fit` that does not train as Keras's does, a second
            `AdversarialTraining`, a `tf.distribute` strategy, and, with several workers,
            `steps_per_execution` above 1 or metrics that are not sums over images.
        TrainingError: From `fit`, if the workers differ, or too many updates are not finite.

    Example:

    ```python
    model.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(tfadv.attacks.PGD(epsilon=8, num_steps=10)),
    ])
    ```
    """

    step: AdversarialStep
    lockstep: Lockstep

    def __init__(
        self,
        attack: Attack | None,
        clean_ratio: float = 1.0,
        clean_weight: float | None = None,
        pairing_weight: float = 0.0,
        batch_statistics: str = "together",
        accumulation_steps: int = 1,
        attack_parts: int | None = None,
        value_range: tuple[float, float] | None = None,
        seed: int = 0,
        rematerialize: str = "none",
        attack_precision: str = "float32",
        jit_compile: bool | None = None,
        compression: str = "none",
        max_bad_steps: int = 0,
        progress: Progress | None = None,
        stall_seconds: float = 1800,
    ) -> None:
        super().__init__()
        if attack is not None and not isinstance(attack, Attack):
            raise ValueError(f"attack must be a tfadv.attacks.Attack or None; received {attack!r}")
        self.attack = attack
        self.clean_ratio = arguments.number("clean_ratio", clean_ratio, 0, 1)
        self.clean_weight = clean_weight
        if clean_weight is not None:
            self.clean_weight = arguments.number("clean_weight", clean_weight, 0, 1)
        self.pairing_weight = arguments.number("pairing_weight", pairing_weight, 0, float("inf"))
        self.batch_statistics = arguments.choice(
            "batch_statistics", batch_statistics, ("together", "apart")
        )
        for name, value in (
            ("clean_weight", clean_weight),
            ("pairing_weight", pairing_weight),
            ("batch_statistics", batch_statistics if batch_statistics == "apart" else None),
        ):
            if value and (attack is None or not clean_ratio):
                raise ValueError(
                    f"{name} must not be given without both adversarial and clean images; "
                    f"received {value}"
                )
        self.accumulation_steps = arguments.integer("accumulation_steps", accumulation_steps, 1)
        self.attack_parts = attack_parts
        if attack_parts is not None:
            self.attack_parts = arguments.integer("attack_parts", attack_parts, 1)
            if accumulation_steps % attack_parts:
                raise ValueError(
                    f"attack_parts must divide accumulation_steps={accumulation_steps}; "
                    f"received {attack_parts}"
                )
            if attack_parts > 1 and not (attack is None or attack.takes_parts):
                raise ValueError(
                    f"attack_parts must be 1 for {attack.label}, which takes no keys for parts "
                    f"(takes_parts); received {attack_parts}"
                )
        self.value_range = value_range
        self.seed = arguments.integer("seed", seed, 0)
        self.rematerialize = arguments.choice(
            "rematerialize", rematerialize, ("none", "step", "all")
        )
        self.attack_precision = arguments.choice(
            "attack_precision", attack_precision, models.PRECISIONS
        )
        self.jit_compile = arguments.choice("jit_compile", jit_compile, (None, True, False))
        self.compression = arguments.choice("compression", compression, ("none", "fp16"))
        self.max_bad_steps = arguments.integer("max_bad_steps", max_bad_steps, 0)
        self.progress = progress
        self.stall_seconds = arguments.number("stall_seconds", stall_seconds, 0, float("inf"))
        self._epoch = 0
        self._batch: int | None = None
        self._running = self._armed = self._built = self._traced = False
        self._function: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        model = self.model
        self._check(model)
        self._armed = self._built = self._traced = False
        # The step may leave variables out of an update, so the optimizer has to know all of them.
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        value_range = None
        if self.attack is not None:
            value_range = models.value_range(model, self.value_range)
        self.step = AdversarialStep(
            model,
            self.attack,
            value_range,
            clean_ratio=self.clean_ratio,
            clean_weight=self.clean_weight,
            pairing_weight=self.pairing_weight,
            batch_statistics=self.batch_statistics,
            accumulation_steps=self.accumulation_steps,
            attack_parts=self._parts_together(),
            seed=self.seed,
            rematerialize=self.rematerialize,
            attack_precision=self.attack_precision,
            jit_compile=self.jit_compile,
            compression=self.compression,
        )
        self.lockstep = Lockstep(model, self.params, self.step, self.stall_seconds, self.progress)
        distributed.broadcast(model.variables + model.optimizer.variables)
        self._running = True
        self.install()

    def install(self) -> None:
        """Puts the step into the model, to be traced again at the next batch of `fit`."""
        model = self.model
        jit_compile, model.jit_compile = model.jit_compile, False
        model.train_step = self._train_step
        try:
            model.make_train_function(force=True)
        finally:
            model.jit_compile = jit_compile
            del model.train_step
        adversarial = model.train_function
        history = getattr(model, "history", None)

        def train_function(iterator):
            # After Ctrl-C or an exception no callback hears that training has ended, and Keras
            # keeps this function for the next `fit` or `train_on_batch`. So it trains adversarially
            # only the batches that this callback announced, in the `fit` that it was made for:
            # each `fit` has its own history.
            same_fit = history is getattr(model, "history", None)
            if self._armed and same_fit and isinstance(iterator, tf.data.Iterator):
                self._armed = False
                if not self._built:
                    self.step.build(iterator.element_spec)
                    self._built = True
                    if self.progress is not None and self.progress.sums is not None:
                        self.step.sums = self.progress.sums
                if self.progress is not None and self._batch < self.progress.step:
                    return self.step.results()
                with checks.one_line():
                    logs = self.lockstep.update(adversarial, iterator, self._batch)
                if not self._traced:
                    raise ValueError(_bypassed(model, "make_train_function", "train_step"))
                return logs
            model.make_train_function(force=True)
            return model.train_function(iterator)

        self._function = model.train_function = train_function
        # An exception may leave the function, and its callback may be in another `fit` by now, with
        # other parameters: all callbacks of one `fit` share those.
        self._function.callback, self._function.params = self, self.params

    def _train_step(self, data: Any) -> dict[str, tf.Tensor]:
        self._traced = True
        return self.step(data)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.step.reset()
        self._epoch, self._batch = epoch, None
        if self.progress is not None and epoch != self.progress.epoch:
            raise ValueError(
                f"initial_epoch must be {self.progress.epoch}, that of progress; received {epoch}"
            )

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        # A `train_on_batch` by another callback replaces our function with Keras's.
        self.model.train_function = self._function
        if self._batch is None:
            self.lockstep.begin_epoch(self._epoch)
        self._batch = batch
        self._armed = True
        watchdog.beat(f"in step {batch + 1} of an epoch")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        watchdog.beat(f"after step {batch + 1} of an epoch")
        if self._armed:
            raise ValueError(_bypassed(self.model, "fit", "train_function"))
        self.step.extremes.warn()
        self.lockstep.updated(batch)
        agreement = self.step.agreement
        if agreement.skipped_updates > self.max_bad_steps:
            workers = ", ".join(map(str, agreement.faulty_workers)) or "all, in their mean"
            raise TrainingError(
                f"skipped {agreement.skipped_updates} update(s) whose loss or gradients were not "
                f"finite, more than max_bad_steps={self.max_bad_steps}; the last was update "
                f"{int(self.model.optimizer.iterations)}, on worker(s) {workers}{_hint()}"
            )

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self._running:  # not an evaluation by itself
            self.lockstep.leave()

    def on_test_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        watchdog.beat(f"in step {batch + 1} of a validation")

    def on_test_end(self, logs: dict | None = None) -> None:
        if self._running:
            self.lockstep.validated(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.lockstep.end_epoch(logs)
        self.progress = None  # from here on, nothing is passed over

    def on_train_end(self, logs: dict | None = None) -> None:
        self.lockstep.end()
        self._running = self._armed = False
        self._function = self.model.train_function = None
        self.step.networks.clear()  # and with them the graphs

    def _parts_together(self):
        if self.attack_parts is not None:
            return self.attack_parts
        two_fit = (
            self.accumulation_steps % 2 == 0
            and self.attack is not None
            and self.attack.takes_parts
            and self.clean_ratio == 1
            and self.rematerialize == "none"
        )
        return 2 if two_fit and tf.config.get_visible_devices("GPU") else 1

    def _check(self, model):
        if not model.built:
            raise ValueError(
                "model must be built before AdversarialTraining, by its first call or a "
                f"keras.Input; {model.name!r} is not"
            )
        models.check_classifier(model)
        models.check_outputs(model, attacked=self.attack is not None)
        contracts.check_training(model)
        if _installed(self) is not None:
            raise ValueError("one fit must have one AdversarialTraining; received several")
        default = tf.distribute.get_strategy()
        if tf.distribute.has_strategy() or model.distribute_strategy is not default:
            raise ValueError(
                "AdversarialTraining spreads over workers with Horovod, not with tf.distribute; "
                f"received a model under {type(model.distribute_strategy).__name__}"
            )
        if model.steps_per_execution > 1 and distributed.size() > 1:
            # Keras runs the steps in a conditional, where a collective may hang.
            raise ValueError(
                "steps_per_execution must be 1 with several workers; "
                f"received {model.steps_per_execution}"
            )
        if self.rematerialize != "none":
            rematerialization.blocks(model)  # raises for a subclassed model
        if self.batch_statistics == "apart":
            calling.check_apart(model)
        if self.pairing_weight and not models.ends_in_logits(model):
            raise ValueError(
                "pairing_weight must be 0 for a model that ends in a "
                f"{models.final_activation(model)}, since it pairs logits"
            )


def _hint():
    if keras.config.floatx() != "float16":
        return ""
    return (
        "; sums in float16 end at 65504: use keras.config.set_dtype_policy('mixed_float16') with "
        "floatx float32"
    )


def _bypassed(model, method, avoided):
    return (
        f"the {method} of {type(model).__name__} {model.name!r} must train through "
        f"model.{avoided}, which AdversarialTraining replaces; it trained without"
    )


def installed(callback: keras.callbacks.Callback) -> AdversarialTraining:
    """Returns the `AdversarialTraining` before a callback in the same `fit`.

    Raises:
        ValueError: If there is none.
    """
    training = _installed(callback)
    if training is None:
        raise ValueError(
            "AdversarialTraining must come before this callback in the same fit (with attack=None "
            "for clean training)"
        )
    return training


def networks(callback: keras.callbacks.Callback) -> Networks | None:
    """Returns the networks of the `AdversarialTraining` before a callback, if there is one."""
    training = _installed(callback)
    return None if training is None else training.step.networks


def _installed(callback):
    function = callback.model.train_function
    if not hasattr(function, "callback") or function.params is not callback.params:
        return None  # Keras's own function, or one that an interrupted `fit` has left
    return function.callback
