"""What the workers of a training must have in common, compared before and with every update."""

import numbers

import keras
import numpy as np
import tensorflow as tf

from tfadv import distributed
from tfadv.training.faults import TrainingError

# What a worker says of itself with an update, each of which makes it void on all workers.
_STATES = ("ended", "stops", "abandoned")


def require_equal(settings, error=ValueError):
    """Compares settings of all workers.

    Args:
        settings: Dictionary, name -> any picklable value.
        error: What is raised on all workers, for the first setting that differs.
    """
    gathered = distributed.gather_object(settings)
    for name in dict.fromkeys(name for each in gathered for name in each):
        values = [each.get(name, "nothing") for each in gathered]
        if any(value != values[0] for value in values):
            text = distributed.by_worker(values)
            raise error(f"{name} must be the same on all workers; received {text}")


def description(model):
    """What must be equal of a compiled and built model, for `require_equal`."""
    config = model.optimizer.get_config() if hasattr(model.optimizer, "get_config") else {}
    settings = {f"the optimizer's {name}": value for name, value in _settings(config)}
    settings["the optimizer"] = type(model.optimizer).__name__
    for place, variable in enumerate(model.variables):
        trains = "" if variable.trainable else ", frozen or not trainable"
        settings[f"variable {place} of the model"] = (
            f"{variable.name} {tuple(variable.shape)} {variable.dtype}{trains}"
        )
    return settings


def _settings(config, path=""):
    """Yields the plain values of a nested configuration by name, without what is broadcast."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{path}{name}.")
        # Names are counted up in a process, and a learning rate that is no schedule is a variable.
        elif name != "name" and not (name == "learning_rate" and isinstance(value, float)):
            yield path + name, repr(value)


class Agreement:
    """What every worker tells all others with each update, in the step's collective operation.

    Each of them sends a row of numbers and receives the table of all rows. In it are the values of
    the optimizer that callbacks can set: its learning rate, its other scalar variables, and the
    numbers among its attributes (momentum, weight decay, clipping, ...) as they were when the step
    was traced. An update for which they differ is void: no worker changes anything. So is one from
    which a worker is missing, since its epoch or its training has ended or since a signal made it
    abandon its update.

    Args:
        optimizer: A Keras optimizer.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._variables = _variables(optimizer)
        self._attributes = list(_attributes(optimizer))
        self._names = [*_STATES, "learning_rate", *self._variables, *self._attributes]
        self._constants = None
        self._sent = self._half = None
        with tf.device("CPU:0"):
            self._void = tf.Variable(False, trainable=False)
            self._table = tf.Variable(tf.zeros([distributed.size(), len(self._names)]))

    def row(self, abandoned=False):
        """What this worker sends with an update, a vector with its own row among zeros."""
        self._constants = list(_attributes(self._optimizer).values())
        return self._row(abandoned=abandoned)

    def note(self, sent, half):
        """Takes what the step sends in all, of which `row` is the end, for `leave`."""
        self._sent = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in sent]
        self._half = half

    def take(self, mean):
        """Takes the mean of all workers' vectors, and returns whether the update is void."""
        size = distributed.size()
        table = tf.reshape(mean, [size, len(self._names)]) * size
        states, values = table[:, : len(_STATES)], table[:, len(_STATES) :]
        void = tf.reduce_any(states > 0) | tf.reduce_any(_differs(values))
        self._void.assign(void)
        self._table.assign(table)
        return void

    def leave(self, stops, eagerly):
        """Tells the others, who make an update, that this worker's epoch has ended.

        Args:
            stops: Boolean, whether its training has ended with it.
            eagerly: Boolean, whether the others make theirs outside of a graph.

        Raises:
            TrainingError: If this worker has made no update, and cannot join in one.
        """
        if self._sent is None:
            raise TrainingError(
                "data must hold at least one batch for each worker and epoch; received none on "
                f"worker {distributed.rank()}"
            )

        def exchange():
            row = self._row(ended=True, stops=stops)
            *others, last = self._sent
            zeros = [tf.zeros(spec.shape, spec.dtype) for spec in others]
            last = tf.concat([tf.zeros([last.shape[0] - row.shape[0]]), row], 0)
            means = distributed.mean([*zeros, last], "tfadv_step", self._half)
            self.take(means[-1][-row.shape[0] :])
            return means  # none of which a graph may do without: the others wait for all

        with distributed.waiting():
            (exchange if eagerly else tf.function(exchange, autograph=False))()

    def verdict(self):
        """The workers for whom the last update was void, as lists of ranks by what they said.

        Returns:
            A dictionary of `"ended"`, `"stops"` and `"abandoned"`, or None of an update that
            counts.

        Raises:
            TrainingError: If values differ.
        """
        if not self._void.numpy():
            return None
        table = self._table.numpy()
        differs = _differs(table[:, len(_STATES) :]).numpy().any(axis=0)
        for name, values, any_differs in zip(
            self._names[len(_STATES) :], table.T[len(_STATES) :], differs, strict=True
        ):
            if any_differs:
                listed = ["None" if np.isnan(value) else f"{value:.6g}" for value in values]
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

    def _row(self, ended=False, stops=False, abandoned=False):
        values = [ended, stops, abandoned, self._optimizer.learning_rate]
        values += [*self._variables.values(), *self._constants]
        row = tf.stack([_number(value) for value in values])
        shape = [distributed.size(), len(values)]
        # Not a product with a one-hot vector, in which NaN would be everyone's.
        return tf.reshape(tf.scatter_nd([[distributed.rank()]], row[None], shape), [-1])


def _variables(optimizer):
    """Its scalar variables by name, but for the learning rate."""
    scalars = {}
    for variable in optimizer.variables:
        if variable.shape == () and variable.name != "learning_rate":
            # Of a wrapped optimizer too, whose names are the same.
            scalars[variable.path if variable.name in scalars else variable.name] = variable
    return scalars


def _attributes(optimizer):
    """The numbers among its public attributes by name, NaN for None."""
    numbers_of = {}
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        numbers_of |= _attributes(inner)
    for name, value in vars(optimizer).items():
        if not name.startswith("_") and name != "built" and name not in numbers_of:
            if value is None or isinstance(value, numbers.Real):
                numbers_of[name] = np.nan if value is None else float(value)
    return numbers_of


def _number(value):
    value = tf.convert_to_tensor(value.value if isinstance(value, keras.Variable) else value)
    if value.dtype.is_integer:
        value %= 2**24  # what float32 holds exactly
    return tf.cast(value, tf.float32)


def _differs(values):
    nan = tf.math.is_nan(values)
    return ~((values == values[:1]) | (nan & nan[:1]))
