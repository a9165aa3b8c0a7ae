"""What the workers of a training must have in common, compared before and with every update."""

import numbers
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv import distributed

_STATES = ("ended", "stops", "abandoned")  # each makes an update void on all workers
_REQUESTS = ("stop", "checkpoint")
_REPORTS = (*_STATES, "faulty", *_REQUESTS)


class TrainingError(RuntimeError):
    """Training cannot go on: the workers differ, or values are not finite."""


def require_equal(settings: dict[str, Any], error: type[Exception] = ValueError) -> None:
    """Raises on all workers if a setting is not the same on all of them.

    Args:
        settings: Dictionary, name -> any picklable value.
        error: The exception to raise for the first setting that differs.
    """
    gathered = distributed.gather_object(settings)
    for name in dict.fromkeys(name for each in gathered for name in each):
        values = [each.get(name, "nothing") for each in gathered]
        if any(value != values[0] for value in values):
            text = distributed.by_worker(values)
            raise error(f"{name} must be the same on all workers; received {text}")


def description(model: keras.Model) -> dict[str, str]:
    """Returns what must be equal in a compiled and built model, for `require_equal`."""
    config = model.optimizer.get_config() if hasattr(model.optimizer, "get_config") else {}
    settings = {f"the optimizer's {name}": value for name, value in _settings(config)}
    settings["the optimizer"] = type(model.optimizer).__name__
    for place, variable in enumerate(model.variables):
        trains = "" if variable.trainable else ", frozen or not trainable"
        settings[f"variable {place} of the model"] = (
            f"{variable.name} {tuple(variable.shape)} {variable.dtype}{trains}"
        )
    return settings


def _settings(config: dict, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields the plain values of a nested configuration by name, without what is broadcast."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{path}{name}.")
        # Keras numbers the names, and a learning rate without a schedule is a variable.
        elif name != "name" and not (name == "learning_rate" and isinstance(value, float)):
            yield path + name, repr(value)


class Agreement:
    """The table of what every worker reports with an update.

    Each worker sends its row in the step's all-reduce and receives the rows of all, so that all
    decide alike after the same update. A row holds:

    - whether the worker's epoch or training has ended, or a signal made it abandon the update; the
      update is then void: no worker changes anything
    - whether its loss or gradients are not finite; then all workers skip the update
    - its requests, to stop or to write a checkpoint
    - the values of the optimizer that callbacks can set: the learning rate, its other scalar
      variables, and the numbers among its attributes (momentum, weight decay, clipping, ...) at the
      time of tracing; an update for which they differ is void

    Args:
        optimizer: A Keras optimizer.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self._optimizer = optimizer
        self._variables = _variables(optimizer)
        self._values = ["learning_rate", *self._variables, *_attributes(optimizer)]
        self._constants: list[float] = []
        self._sent: list[tf.TensorSpec] | None = None
        self._half = 0
        with tf.device("CPU:0"):  # other threads set and read them while a GPU works
            self._asked = {name: tf.Variable(0.0, trainable=False) for name in _REQUESTS}
            self._hurried = tf.Variable(False, trainable=False)
            self._void = tf.Variable(False, trainable=False)
            self._skipped = tf.Variable(0, trainable=False)
            columns = len(_REPORTS) + len(self._values)
            self._table = tf.Variable(tf.zeros([distributed.size(), columns]), trainable=False)

    def ask(self, request: str) -> None:
        """Requests `"stop"` or `"checkpoint"`, with the current update or the next."""
        with tf.init_scope():  # a signal may come while a graph is traced, and is no part of it
            self._asked[request].assign(1.0)

    def agreed(self, request: str) -> bool:
        """Whether any worker requested this with the last update; true only once."""
        table, column = self._table.numpy(), _REPORTS.index(request)
        if not table[:, column].any():
            return False
        table[:, column] = 0.0
        self._table.assign(table)
        self._asked[request].assign(0.0)
        return True

    def hurry(self) -> None:
        """Abandons the current update, or the next, after the part that it is at."""
        with tf.init_scope():
            self._hurried.assign(True)

    @property
    def hurried(self) -> tf.Tensor:
        """Whether to abandon the update after the current part, a boolean tensor."""
        return self._hurried.value()

    @property
    def skipped_updates(self) -> int:
        """How many updates were skipped because a value was not finite."""
        return int(self._skipped.numpy())

    @property
    def faulty_workers(self) -> list[int]:
        """The ranks of those whose loss or gradients were not finite in the last update."""
        return np.flatnonzero(self._table.numpy()[:, _REPORTS.index("faulty")]).tolist()

    def row(self, abandoned: Any, faulty: Any) -> tf.Tensor:
        """What this worker sends with an update: its own row of the table, among zeros."""
        self._constants = list(_attributes(self._optimizer).values())
        asked = [variable.value() for variable in self._asked.values()]
        return self._row([False, False, abandoned, faulty, *asked])

    def note(self, sent: list[tf.Tensor], half: int) -> None:
        """Takes all that the step sends, which ends in the `row`, for `leave`."""
        self._sent = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in sent]
        self._half = half

    def take(self, mean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes the mean of the `row`s of all workers.

        Returns:
            Two boolean tensors: whether the update is void, and whether a worker is faulty.
        """
        size = distributed.size()
        table = tf.reshape(mean, self._table.shape) * size
        states, values = table[:, : len(_STATES)], table[:, len(_REPORTS) :]
        void = tf.reduce_any(states > 0) | tf.reduce_any(_differs(values))
        self._void.assign(void)
        self._table.assign(table)
        return void, tf.reduce_any(table[:, _REPORTS.index("faulty")] > 0)

    def skip(self, skipped: tf.Tensor) -> None:
        """Counts an update if it is skipped, given as a boolean tensor."""
        self._skipped.assign_add(tf.cast(skipped, tf.int32))

    def leave(self, stops: bool, eagerly: bool) -> None:
        """Tells the others, who make an update, that this worker's epoch has ended.

        It `stops` if its training has ended too. The others may make their update `eagerly`.

        Raises:
            TrainingError: If this worker has made no update and cannot take part in one.
        """
        if self._sent is None:
            raise no_batch([distributed.rank()])

        def exchange():
            row = self._row([True, stops] + [False] * (len(_REPORTS) - 2))
            *others, last = self._sent
            zeros = [tf.zeros(spec.shape, spec.dtype) for spec in others]
            last = tf.concat([tf.zeros([last.shape[0] - row.shape[0]]), row], 0)
            means = distributed.mean([*zeros, last], "tfadv_step", self._half)
            self.take(means[-1][-row.shape[0] :])
            return means  # a graph must not drop any of them: the others wait for all

        with distributed.waiting():
            (exchange if eagerly else tf.function(exchange, autograph=False))()

    def verdict(self) -> dict[str, list[int]] | None:
        """Why the last update was void: `"ended"`, `"stops"` or `"abandoned"` -> ranks.

        Returns:
            None if the update was not void.

        Raises:
            TrainingError: If values differ.
        """
        if not self._void.numpy():
            return None
        table = self._table.numpy()
        values = table[:, len(_REPORTS) :]
        differ = _differs(values).numpy().any(axis=0)
        for name, column, differs in zip(self._values, values.T, differ, strict=True):
            if differs:
                listed = ["None" if np.isnan(value) else f"{value:.6g}" for value in column]
                raise TrainingError(
                    f"{name} of the optimizer must be the same on all workers; received "
                    f"{distributed.by_worker(listed)} (callbacks that set it must decide alike: "
                    "put them after AdversarialTraining, which averages the logs, or set it on "
                    "every worker)"
                )
        return {
            name: np.flatnonzero(column).tolist()
            for name, column in zip(_STATES, table.T[: len(_STATES)], strict=True)
        }

    def _row(self, reports):
        values = [*reports, self._optimizer.learning_rate]
        values += [*self._variables.values(), *self._constants]
        row = tf.stack([_number(value) for value in values])
        # Not a product with a one-hot vector, which would give every worker a NaN.
        return tf.reshape(tf.scatter_nd([[distributed.rank()]], row[None], self._table.shape), [-1])


def no_batch(ranks: list[int]) -> TrainingError:
    """The error for workers that have no data at all."""
    return TrainingError(
        "data must hold at least one batch for each worker and epoch; received none on "
        f"{distributed.named(ranks)}"
    )


def _variables(optimizer):
    """An optimizer's scalar variables by name, except the learning rate."""
    scalars = {}
    for variable in optimizer.variables:
        if variable.shape == () and variable.name != "learning_rate":
            # A wrapped optimizer's variables have the same names as its wrapper's.
            scalars[variable.path if variable.name in scalars else variable.name] = variable
    return scalars


def _attributes(optimizer):
    """The numbers among an optimizer's public attributes by name, NaN for None."""
    inner = getattr(optimizer, "inner_optimizer", None)
    values = {} if inner is None else _attributes(inner)
    for name, value in vars(optimizer).items():
        if not name.startswith("_") and name != "built" and name not in values:
            if value is None or isinstance(value, numbers.Real):
                values[name] = np.nan if value is None else float(value)
    return values


def _number(value):
    value = tf.convert_to_tensor(value.value if isinstance(value, keras.Variable) else value)
    if value.dtype.is_integer:
        value %= 2**24  # what float32 holds exactly
    return tf.cast(value, tf.float32)


def _differs(values):
    nan = tf.math.is_nan(values)
    return ~((values == values[:1]) | (nan & nan[:1]))
