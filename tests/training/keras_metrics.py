"""Every metric of Keras, by the labels it takes, and some whose states are no sums."""

import inspect

import keras
import tensorflow as tf

from tests.training import cases

_OPTIONS = {
    "IoU": dict(num_classes=4, target_class_ids=[0, 2], sparse_y_true=False, sparse_y_pred=False),
    "MeanIoU": dict(num_classes=4, sparse_y_true=False, sparse_y_pred=False),
    "OneHotIoU": dict(num_classes=4, target_class_ids=[1, 2]),
    "OneHotMeanIoU": dict(num_classes=4),
    "BinaryIoU": dict(threshold=0.3),
    "PrecisionAtRecall": dict(recall=0.5),
    "RecallAtPrecision": dict(precision=0.3),
    "SensitivityAtSpecificity": dict(specificity=0.5),
    "SpecificityAtSensitivity": dict(sensitivity=0.5),
    "SparseTopKCategoricalAccuracy": dict(k=2),
    "TopKCategoricalAccuracy": dict(k=2),
    "MeanMetricWrapper": dict(fn=keras.losses.mean_squared_error),
}
# These are not metrics of labels and outputs.
_BASES = {"Metric", "Mean", "Sum"}


def names(sparse):
    """Returns the names of the metrics of sparse labels, or of one-hot labels."""
    return [
        name
        for name, each in sorted(vars(keras.metrics).items())
        if inspect.isclass(each)
        and issubclass(each, keras.metrics.Metric)
        and name not in _BASES
        and name.startswith("Sparse") == sparse
    ]


def make(name):
    return getattr(keras.metrics, name)(**_OPTIONS.get(name, {}), name=name)


class MaxOutput(keras.metrics.Metric):
    """The largest output, from a start on."""

    def __init__(self, start=0.0, name="MaxOutput"):
        super().__init__(name=name)
        self.start = start
        self.most = self.add_variable(
            (), initializer=keras.initializers.Constant(start), name="most"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(tf.maximum(self.most.value, tf.reduce_max(y_pred)))

    def result(self):
        return self.most.value

    def reset_state(self):
        self.most.assign(self.start)


class MaxFromNothing(MaxOutput):
    def __init__(self):
        super().__init__(float("-inf"), "MaxFromNothing")


class Smoothed(MaxOutput):
    """A moving average of the largest outputs."""

    def __init__(self):
        super().__init__(0.0, "Smoothed")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(0.5 * self.most + 0.5 * tf.reduce_max(y_pred))


class LastOutput(MaxOutput):
    """The largest output of the last batch."""

    def __init__(self):
        super().__init__(0.0, "LastOutput")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(tf.reduce_max(y_pred))


NO_SUMS = (MaxOutput, MaxFromNothing, Smoothed, LastOutput)


def classifier(metrics, sparse=False, optimizer=None, weighted=False):
    """A softmax of known weights, which do not move, with metrics of sparse or one-hot labels."""
    model = keras.Sequential([keras.Input(cases.SHAPE), cases.network(), keras.layers.Softmax()])
    loss = keras.losses.CategoricalCrossentropy()
    if sparse:
        loss = keras.losses.SparseCategoricalCrossentropy()
    return cases.compiled(
        model,
        optimizer or keras.optimizers.SGD(0.0),
        loss,
        **{"weighted_metrics" if weighted else "metrics": metrics},
    )
