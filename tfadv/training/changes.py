import keras
import tensorflow as tf

from tfadv import distributed, keras_internals


class Changes:
    """What one step changes in a model, held back until all workers agree on it.

    Gradients, the changes of moving statistics and of compiled metrics, and counts, in the one
    order in which they travel. A moving average is linear, so the mean of the workers' changes is
    the change of the mean of what they would have kept alone.

    Args:
        model: A compiled and built Keras model.
        counts_shape: Of the counts that travel with them.
        compression: `"none"`, or `"fp16"`: gradients, and nothing else, are sent in float16.
        communication: A `Communication` that measures the all-reduce, or None.
        faults: `Faults`, which notes updates that are left out.
        agreement: An `Agreement`, which says whether an update is void, or None.
    """

    def __init__(
        self, model, counts_shape, faults, compression="none", communication=None, agreement=None
    ):
        self.model = model
        self.compression = compression
        self.communication = communication
        self.faults = faults
        self.agreement = agreement
        self.trainable = model.trainable_variables
        state = model.non_trainable_variables
        self.moving = [v for v in state if keras.backend.is_float_dtype(v.dtype)]
        self.other = [v for v in state if not keras.backend.is_float_dtype(v.dtype)]
        self._other_before = [tf.identity(v.value) for v in self.other]
        self.metrics = model.metrics_variables
        self._counts_shape = counts_shape
        self._touched = None
        self._weights = {}

    def zeros(self):
        """Where a sum over the parts of a batch starts: a list of tensors."""
        variables = self.trainable + self.moving
        return [tf.zeros(v.shape, v.dtype) for v in variables] + [tf.zeros(self._counts_shape)]

    def metric_states(self, scope=None):
        """The states of the metrics as a `keras.StatelessScope` leaves them; None: as they are.

        A metric sees one part of a batch after the other, so that its state need not add up.
        """
        values = [scope and scope.get_current_value(v) for v in self.metrics]
        return [
            tf.convert_to_tensor(v.value) if value is None else tf.convert_to_tensor(value)
            for v, value in zip(self.metrics, values, strict=True)
        ]

    def after(self, layers, metrics):
        """A scope for the model's loss and metrics, which go on from what its call assigned.

        Args:
            layers: The `keras.StatelessScope` of the model's call.
            metrics: List of tensors, the states of the metrics.

        Returns:
            A `keras.StatelessScope`.
        """
        # Keras's regularizers take the weights from the scope.
        weights = [(v, v.value) for v in self.trainable]
        state = keras.StatelessScope([*weights, *self._metrics_and(metrics)])
        self._weights = {id(v): state.get_current_value(v) for v in self.trainable}
        state.state_mapping.update(layers.state_mapping)
        return state

    def collect(self, gradients, state, counts):
        """Puts what one part of a batch changes, other than metrics, into a list of tensors.

        Args:
            gradients: List, of `trainable`; None where a variable had no part in the loss.
            state: The `keras.StatelessScope` that holds what was assigned.
            counts: Tensor.

        Raises:
            ValueError: If a layer or the loss assigns a variable that gradients train.
        """
        for variable in self.trainable:
            if state.get_current_value(variable) is not self._weights.get(id(variable)):
                raise ValueError(
                    "layers must not assign what gradients train, as SpectralNormalization does; "
                    f"received {variable.path!r}"
                )
        # Variables that no image of any worker reaches, as those of a mixture's clean branch
        # where there are no clean images, stay exactly as they are; and, as frozen ones, at home.
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
        return [
            *dense,
            *[_change(state, v) for v in self.moving],
            counts,
        ]

    def apply(self, sums, metrics, parts, requests, abandoned=False):
        """Averages the sums over parts and workers, and changes the model by them.

        If any of them is not finite, on whichever worker, the update is left out: it counts as one,
        and changes nothing. (Gradients of a `LossScaleOptimizer` are its own to look at, as long as
        its scale is above 1.) The states of metrics may be anything: a maximum begins at -inf. If
        the update is void, by the `Agreement`, everything is as before it, the number of updates
        too.

        Args:
            sums: List of tensors, as of `collect`.
            metrics: List of tensors, as of `metric_states`. The changes of several workers add up,
                as `tfadv.training.additive_metrics` makes sure.
            parts: Integer, how many parts of a batch they are sums over.
            requests: A float tensor of this worker, which travels with them.
            abandoned: Boolean tensor, whether the sums lack some parts, which makes it void.

        Returns:
            The mean counts, zeros if nothing changes; and the mean of all workers' requests.
        """
        sent = [value / parts for value, on in zip(sums, self._touched, strict=True) if on]
        gradients = sum(self._touched[: len(self.trainable)])
        half = gradients if self.compression == "fp16" else 0
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        flags = self.faults.flags(sent[gradients:] if scaled else sent)
        if scaled:
            # It leaves them out itself and lowers the scale; at 1 that is not what they come from.
            unscaled = tf.cast(self.model.optimizer.dynamic_scale.value <= 1.0, tf.float32)
            flags = tf.maximum(flags, unscaled * self.faults.flags(sent[:gradients]))
        number, several = len(sent), distributed.size() > 1
        if several:
            sent += [_metric_change(v, state) for v, state in self._metrics_and(metrics)]
        row = tf.zeros([0]) if self.agreement is None else self.agreement.row(abandoned)
        sent.append(tf.concat([requests, flags, row], 0))
        if self.agreement is not None:
            self.agreement.note(sent, half)

        def reduce():
            return distributed.mean(sent, "tfadv_step", half)

        *means, answers = (
            self.communication.around(sent, reduce) if self.communication else reduce()
        )
        if several:
            metrics = [_metric_sum(v, mean) for v, mean in self._metrics_and(means[number:])]
            means = means[:number]
        answers, flags, rows = tf.split(
            answers, [requests.shape[0], distributed.size(), row.shape[0]]
        )
        void = tf.constant(False) if self.agreement is None else self.agreement.take(rows)
        left_out = tf.reduce_any(flags > 0)
        if half and not scaled:  # which may overflow on their way
            finite = [tf.reduce_all(tf.math.is_finite(mean)) for mean in means[:half]]
            left_out |= ~tf.reduce_all(tf.stack(finite))
        left_out &= ~void  # what is not finite is no fault where nobody takes it
        self.faults.note(left_out, flags)
        # What is in a branch is this worker's alone: the collective operation is behind it.
        tf.cond(
            void,
            self._undo,
            lambda: tf.cond(left_out, self._leave_out, lambda: self._change(means, metrics)),
        )
        return tf.where(left_out | void, 0.0, means[-1]), answers

    def _undo(self):
        for variable, value in zip(self.other, self._other_before, strict=True):
            variable.assign(value)
        return tf.constant(0)

    def _leave_out(self):
        # Counted all the same: the learning rate, the data and the random draws go on.
        keras_internals.batch_counter(self.model.optimizer).assign_add(1)
        return tf.constant(0)

    def _metrics_and(self, tensors):
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
    """The state of a metric after the changes of all workers, of which there is the mean."""
    change = mean * distributed.size()
    if not keras.backend.is_float_dtype(variable.dtype):
        change = tf.round(change)  # a mean times its number may be 6.9999995
    return variable.value + tf.cast(change, variable.dtype)
