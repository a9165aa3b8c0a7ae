from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfadv import distributed, keras_internals
from tfadv.training.agreement import Agreement
from tfadv.training.meters import Communication


class Changes:
    """What one step changes in a model, held back until all workers agree on it.

    Gradients, the changes of moving statistics and of compiled metrics, and counts, in the order in
    which they are sent. A moving average is linear, so the mean of the workers' changes is the
    change by the mean of their batch statistics.

    Args:
        model: A compiled and built Keras model.
        counts_shape: Shape of the counts that are sent with them.
        agreement: The `Agreement` of the workers.
        compression: `"fp16"` sends gradients, and nothing else, in float16.
        communication: Measures the all-reduce, if it is not None.
    """

    def __init__(
        self,
        model: keras.Model,
        counts_shape: tf.TensorShape,
        agreement: Agreement,
        compression: str = "none",
        communication: Communication | None = None,
    ) -> None:
        self.model = model
        self.agreement = agreement
        self.compression = compression
        self.communication = communication
        self.trainable = model.trainable_variables
        state = model.non_trainable_variables
        self.moving = [v for v in state if keras.backend.is_float_dtype(v.dtype)]
        self.other = [v for v in state if not keras.backend.is_float_dtype(v.dtype)]
        self._other_before = [tf.identity(v.value) for v in self.other]
        self.metrics = model.metrics_variables
        self._counts_shape = counts_shape
        self._touched: list[bool] = []
        self._weights: dict[int, Any] = {}
        self._held: list[int] = []

    def zeros(self) -> list[tf.Tensor]:
        """The zeros from which to sum what `collect` returns for the parts of a batch."""
        variables = self.trainable + self.moving
        return [tf.zeros(v.shape, v.dtype) for v in variables] + [tf.zeros(self._counts_shape)]

    def metric_states(self, scope: keras.StatelessScope | None = None) -> list[tf.Tensor]:
        """The states of the metrics as a scope leaves them, or as they are.

        A metric sees the parts of a batch one after the other, because its states need not add up.
        """
        values = [scope and scope.get_current_value(v) for v in self.metrics]
        return [
            tf.convert_to_tensor(v.value if value is None else value)
            for v, value in zip(self.metrics, values, strict=True)
        ]

    def after(self, layers: keras.StatelessScope, metrics: list[tf.Tensor]) -> keras.StatelessScope:
        """A scope for the model's loss and metrics, which continues the one of its call."""
        # Keras's regularizers take the weights from the scope.
        weights = [(v, v.value) for v in self.trainable]
        state = keras.StatelessScope([*weights, *self._metrics_and(metrics)])
        self._weights = {id(v): state.get_current_value(v) for v in self.trainable}
        state.state_mapping.update(layers.state_mapping)
        return state

    def held(self, state: keras.StatelessScope) -> list[tf.Tensor]:
        """Returns all that a scope holds except weights, for `holding` outside of a function."""
        self._check_weights(state)
        # In the order of the assignments, which is the same in every process.
        self._held = [key for key in state.state_mapping if key not in self._weights]
        return [state.state_mapping[key] for key in self._held]

    def holding(self, held: list[tf.Tensor], metrics: list[tf.Tensor]) -> keras.StatelessScope:
        """Returns a scope like the one whose values `held` returned."""
        state = self.after(keras.StatelessScope(), metrics)
        state.state_mapping.update(zip(self._held, held, strict=True))
        return state

    def collect(
        self, gradients: list[tf.Tensor | None], state: keras.StatelessScope, counts: tf.Tensor
    ) -> list[tf.Tensor]:
        """Lists what one part of a batch changes, except metrics.

        The gradient of a variable that is not in the loss is None.

        Raises:
            ValueError: If a layer or the loss assigns a variable that gradients train.
        """
        self._check_weights(state)
        # Variables that no image of any worker reaches, such as those of a mixture's clean branch
        # without clean images, stay exactly as they are; neither they nor frozen ones are sent.
        self._touched = [gradient is not None for gradient in gradients]
        self._touched += [state.get_current_value(v) is not None for v in self.moving]
        self._touched.append(True)
        dense = [
            tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, self.trainable, strict=True)
        ]
        # Not where the data have ended and nothing is counted.
        with tf.control_dependencies([tf.convert_to_tensor(counts)]):
            for variable in self.other:  # states of random generators, which have no mean
                value = state.get_current_value(variable)
                if value is not None:
                    variable.assign(value)
        return [*dense, *[_change(state, v) for v in self.moving], counts]

    def _check_weights(self, state):
        for variable in self.trainable:
            if state.get_current_value(variable) is not self._weights.get(id(variable)):
                raise ValueError(
                    "layers must not assign what gradients train, as SpectralNormalization does; "
                    f"received {variable.path!r}"
                )

    def apply(
        self,
        sums: list[tf.Tensor],
        metrics: list[tf.Tensor],
        parts: int,
        values: tf.Tensor,
        abandoned: Any = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Averages the sums over parts and workers, and changes the model by them.

        If any sum is not finite, on any worker, the update is skipped: it counts as one and changes
        nothing. (A `LossScaleOptimizer` looks after its own gradients while its scale is above 1.)
        The states of metrics may be anything: a maximum begins at -inf. If the update is void by
        the `Agreement`, everything stays as before, the number of updates too.

        Args:
            sums: Sums of what `collect` returns, over the parts of a batch.
            metrics: The states of the metrics; the changes of several workers are added up.
            parts: The number of parts.
            values: A vector to be averaged too.
            abandoned: Whether the sums lack some parts, which makes the update void.

        Returns:
            The mean counts, zeros if nothing changes; and the mean of `values`.
        """
        sent = [value / parts for value, on in zip(sums, self._touched, strict=True) if on]
        gradients = sum(self._touched[: len(self.trainable)])
        half = gradients if self.compression == "fp16" else 0
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        finite = _are_finite(sent[gradients:] if scaled else sent)
        if scaled:
            # It skips the update and lowers the scale; at 1 the scale is not the cause.
            unscaled = self.model.optimizer.dynamic_scale.value <= 1.0
            finite &= _are_finite(sent[:gradients]) | ~unscaled
        number, several = len(sent), distributed.size() > 1
        if several:
            sent += [_metric_change(v, state) for v, state in self._metrics_and(metrics)]
        # As late as possible, so that what was requested in the meantime counts already.
        with tf.control_dependencies(sums):
            row = self.agreement.row(abandoned, ~finite)
        sent.append(tf.concat([values, row], 0))
        self.agreement.note(sent, half)

        def reduce():
            return distributed.mean(sent, "tfadv_step", half)

        *means, last = self.communication.around(sent, reduce) if self.communication else reduce()
        if several:
            metrics = [_metric_sum(v, mean) for v, mean in self._metrics_and(means[number:])]
            means = means[:number]
        values, rows = tf.split(last, [values.shape[0], row.shape[0]])
        void, skipped = self.agreement.take(rows)
        if half and not scaled:  # gradients may overflow on their way
            skipped |= ~_are_finite(means[:half])
        skipped &= ~void
        self.agreement.skip(skipped)
        # Branches hold only what is this worker's own: the collective operation is over.
        tf.cond(
            void,
            self._undo,
            lambda: tf.cond(skipped, self._skip, lambda: self._change(means, metrics)),
        )
        return tf.where(skipped | void, 0.0, means[-1]), values

    def _undo(self):
        for variable, value in zip(self.other, self._other_before, strict=True):
            variable.assign(value)
        return tf.constant(0)

    def _skip(self):
        # Counted all the same: the learning rate, the data and the random draws go on.
        keras_internals.batch_counter(self.model.optimizer).assign_add(1)
        return tf.constant(0)

    def _metrics_and(self, tensors) -> Iterator[tuple[keras.Variable, tf.Tensor]]:
        return zip(self.metrics, tensors, strict=True)

    def _change(self, means, metrics):
        means, touched = iter(means), iter(self._touched)
        pairs = [(next(means), variable) for variable in self.trainable if next(touched)]
        for variable in self.moving:
            if next(touched):
                variable.assign(variable.value + next(means))
        for variable, state in self._metrics_and(metrics):
            variable.assign(state)
        self.model.optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
        return tf.constant(0)


def _are_finite(tensors):
    finite = [tf.reduce_all(tf.math.is_finite(t)) for t in tensors if t.dtype.is_floating]
    return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)


def _change(scope, variable):
    value = scope.get_current_value(variable)
    if value is None:
        return tf.zeros(variable.shape, variable.dtype)
    return value - variable.value


def _metric_change(variable, state):
    if variable.dtype in ("float16", "bfloat16"):  # few bits for a sum
        return tf.cast(state, tf.float32) - tf.cast(variable.value, tf.float32)
    change = state - variable.value
    return change if change.dtype.is_floating else tf.cast(change, tf.float32)


def _metric_sum(variable, mean):
    """The state of a metric after the changes of all workers, given their mean."""
    change = mean * distributed.size()
    if not keras.backend.is_float_dtype(variable.dtype):
        change = tf.round(change)  # a mean times its number may be 6.9999995
    return variable.value + tf.cast(change, variable.dtype)
