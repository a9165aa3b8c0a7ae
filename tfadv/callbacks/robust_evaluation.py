import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tfadv import arguments, distributed, keras_internals
from tfadv.attacks import Attack
from tfadv.callbacks import adversarial_training
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.evaluation import Evaluator, doubts
from tfadv.results import key as log_key
from tfadv.training.lockstep import leave_epoch


class RobustEvaluation(ValidatedWeights):
    """Evaluates under attack at the end of epochs.

    Adds these values to the logs of the epoch, for `History`, Keras's progress bar and the
    callbacks after this one, the same on every worker:

        val_clean_accuracy                      of clean images
        val_pgd10_accuracy, val_pgd10_success   for each number of steps, by the attack's name
        val_clean_accuracy_clean_branch, ...    the same through the clean branch of a mixture

    The first ones are those of the adv branch, or of a model without a mixture. Callbacks that
    monitor one of them (`ModelCheckpoint`, `EarlyStopping`, `ReduceLROnPlateau`, `Checkpoint`) must
    come after this one; a warning names one that comes before. Those of Keras also need
    `mode="max"`, because more is better.

    The model is evaluated with the weights that Keras's own validation sees: with
    `keras.callbacks.SwapEMAWeights` in the same `fit`, wherever it stands, the averaged ones.
    (Without it, an optimizer with `use_ema=True` puts them into the model only after `fit`.)
    Graphs are compiled once for all epochs, and nothing is left on the model. After an
    `AdversarialTraining` with PGD, evaluations by PGD take its graph of the attack, if they attack
    as many images at a time, in the same precision and with the same loss. If the results give
    reason to doubt them (`tfadv.evaluation.doubts`), a warning says so.

    Args:
        validation: Data, as for `tfadv.evaluation.evaluate`: with several workers, all images on
            each, or a share of its own. The shares are compared when `fit` begins.
        attack: A `tfadv.attacks.Attack`, or None to evaluate clean images alone.
        num_steps: Integer or list of integers, at least 1; None for the attack's own, or for an
            attack without steps.
        domains: List of `"adv"` and `"clean"`, the branches to attack, each by itself.
        every: Integer, evaluate after every so many epochs; or a function of the epoch, from 0,
            that says whether to.
        batch_size: Integer, images per worker.
        limit: Integer, evaluate only the first `limit` images; None for all.
        seed: Integer; together with the index of an image it determines its targets and starts,
            which are therefore the same at every epoch.
        name_prefix: String, the beginning of the names in the logs.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        progress: Function of (finished batches, all batches), or None.

    Raises:
        ValueError: For an argument outside of these rules; and from `fit`, before training, for
            data that do not fit the model.

    Example:

    ```python
    attack = tfadv.attacks.PGD(epsilon=8, step_size=2, num_steps=10)
    model.fit(images, labels, epochs=2, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.RobustEvaluation((test_images, test_labels), attack),
        keras.callbacks.ModelCheckpoint(
            "best.keras", monitor="val_pgd10_accuracy", mode="max", save_best_only=True
        ),
    ])
    ```
    """

    def __init__(
        self,
        validation: Any,
        attack: Attack | None,
        num_steps: int | Sequence[int] | None = None,
        domains: Sequence[str] = ("adv",),
        every: int | Callable[[int], bool] = 1,
        batch_size: int = 64,
        limit: int | None = None,
        seed: int = 0,
        name_prefix: str = "val_",
        value_range: tuple[float, float] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        super().__init__()
        self.validation = validation
        self.attack = attack
        self.num_steps = num_steps
        self.domains = domains
        self.every = every if callable(every) else arguments.integer("every", every, 1)
        self.batch_size = batch_size
        self.limit = limit
        self.seed = seed
        self.name_prefix = name_prefix
        self.value_range = value_range
        self.progress = progress
        self.results: list = []
        self._evaluator: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._evaluator = Evaluator(
            self.model,
            self.attack,
            self.num_steps,
            self.domains,
            self.value_range,
            self.seed,
            networks=adversarial_training.networks(self),
        )
        # Data that do not fit must be known before an epoch has been trained.
        self._evaluator.open(self.validation, self.batch_size, self.limit)
        if distributed.rank() == 0:
            self._warn_of_order()

    def _warn_of_order(self):
        callbacks = keras_internals.callbacks_of_fit(self)
        for callback in callbacks[: callbacks.index(self)]:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor in self._names():
                warnings.warn(
                    f"{type(callback).__name__} monitors {monitor!r}, which RobustEvaluation adds "
                    "to the logs only after it: put it after RobustEvaluation",
                    stacklevel=3,
                )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not self._is_due(epoch):
            return
        leave_epoch(self.model)
        with self.validated_weights():
            self.results = self._evaluator(
                self.validation, self.batch_size, self.limit, self.progress
            )
        if distributed.rank() == 0:
            for doubt in doubts(self._evaluator, self.results):
                warnings.warn(f"epoch {epoch + 1}: {doubt}", stacklevel=2)
        if logs is not None:
            logs.update(self._named(self.results))

    def on_train_end(self, logs: dict | None = None) -> None:
        self._evaluator = None  # and with it the graphs

    def _is_due(self, epoch):
        return self.every(epoch) if callable(self.every) else (epoch + 1) % self.every == 0

    def _names(self):
        """All names that this callback adds to the logs."""
        evaluator = self._evaluator
        keys = ("clean", *(log_key(attack.name) for attack in evaluator.attacks.values()))
        return {
            self._name(key, value, domain)
            for domain in evaluator.domains
            for key in keys
            for value in ("accuracy", "success")
            if (key, value) != ("clean", "success")
        }

    def _named(self, results):
        named = {}
        for result in results:
            named[self._name(result.key, "accuracy", result.domain)] = result.accuracy
            if result.success is not None:
                named[self._name(result.key, "success", result.domain)] = result.success
        return named

    def _name(self, key, value, domain):
        branch = "_clean_branch" if domain == "clean" else ""
        return f"{self.name_prefix}{key}_{value}{branch}"
