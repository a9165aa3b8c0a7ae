import warnings

from tfadv import arguments, distributed, keras_internals
from tfadv.callbacks.validated_weights import ValidatedWeights
from tfadv.evaluation import Evaluator, doubts
from tfadv.results import key as log_key
from tfadv.training.lockstep import leave_epoch


class RobustEvaluation(ValidatedWeights):
    """Evaluates under attack at the end of epochs.

    Adds to the epoch's logs, where `History`, Keras's progress bar and the callbacks after this one
    find them, the same on every worker:

        val_clean_accuracy                      of clean images
        val_pgd10_accuracy, val_pgd10_success   for each number of steps, by the attack's name
        val_clean_accuracy_clean_branch, ...    the same through the clean branch of a mixture

    The first ones are those of the adv branch, or of a model without a mixture. Callbacks that
    monitor one of them (`ModelCheckpoint`, `EarlyStopping`, `ReduceLROnPlateau`, `Checkpoint`) must
    stand after this one, or see the logs without it; where one stands before, a warning says so.
    Keras also has to be told by `mode="max"` that more is better.

    The model is evaluated with the weights that Keras's own validation sees: with
    `keras.callbacks.SwapEMAWeights` in the same `fit`, wherever it stands, the averaged ones.
    (Without it, an optimizer with `use_ema=True` puts them into the model only after `fit`.)
    Graphs are compiled once for all epochs, and nothing is left on the model. What the results
    alone give reason to doubt (`tfadv.evaluation.doubts`) is a Python warning.

    Args:
        validation: Data, as of `tfadv.evaluation.evaluate`: of several workers, on each all images
            or a share of its own. What they hold is compared when `fit` begins.
        attack: A `tfadv.attacks.Attack`, or None to look at clean images alone.
        num_steps: Integer or list of integers, at least 1; None for the attack's own, or for an
            attack without steps.
        domains: Of `"adv"` and `"clean"`: the branches to attack, each by itself.
        every: Evaluates at the end of every so many epochs; or a function of the epoch, from 0,
            that says whether to.
        batch_size: Images per worker.
        limit: Only the first `limit` images; None for all.
        seed: Integer, with an image's index the key of its targets and starts, which so are the
            same at every epoch.
        name_prefix: String, how the names in the logs begin.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        progress: Function of (done batches, total batches), or None.

    Raises:
        ValueError: Of a value outside of these rules; and at the start of `fit`, of data that do
            not fit the model.

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
        validation,
        attack,
        num_steps=None,
        domains=("adv",),
        every=1,
        batch_size=64,
        limit=None,
        seed=0,
        name_prefix="val_",
        value_range=None,
        progress=None,
    ):
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
        self.results = []
        self._evaluator = None

    def on_train_begin(self, logs=None):
        self._evaluator = Evaluator(
            self.model, self.attack, self.num_steps, self.domains, self.value_range, self.seed
        )
        # What does not fit should be known before an epoch has been trained.
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

    def on_epoch_end(self, epoch, logs=None):
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

    def on_train_end(self, logs=None):
        self._evaluator = None  # and with it the graphs

    def _is_due(self, epoch):
        return self.every(epoch) if callable(self.every) else (epoch + 1) % self.every == 0

    def _names(self):
        """All names that this callback adds to the logs."""
        attacked = (log_key(attack.name) for attack in self._evaluator.attacks.values())
        keys = ("clean", *attacked)
        return {
            self._name(key, what, domain)
            for domain in self._evaluator.domains
            for key in keys
            for what in ("accuracy", "success")
            if (key, what) != ("clean", "success")
        }

    def _named(self, results):
        named = {}
        for result in results:
            named[self._name(result.key, "accuracy", result.domain)] = result.accuracy
            if result.success is not None:
                named[self._name(result.key, "success", result.domain)] = result.success
        return named

    def _name(self, key, what, domain):
        branch = "_clean_branch" if domain == "clean" else ""
        return f"{self.name_prefix}{key}_{what}{branch}"
