import os

import keras
from tensorboard.plugins.hparams import api_pb2, summary

from tfadv import distributed
from tfadv.event_files import EventFile

_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}


class HyperParameters(keras.callbacks.Callback):
    """Writes what a training was started with to TensorBoard's HPARAMS tab; on rank 0.

    Trainings below one `--logdir` then stand in one table there, beside their metrics, and whether
    they came to their end. TensorBoard takes the columns from one of the trainings.

    Args:
        log_dir: String or path, the run's directory. It should hold no other event files than those
            of its sub-runs.
        values: Dictionary, name -> string, number or boolean.
        metrics: List of pairs (sub-run, tag) of the scalars to show, such as
            `("validation", "robust_accuracy/pgd10")` of `TrainingScalars`; a sub-run is a path
            below `log_dir`.
    """

    def __init__(self, log_dir, values, metrics=()):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.values = dict(values)
        self.metrics = list(metrics)

    def on_train_begin(self, logs=None):
        columns = [
            # The kind of filter that the tab offers; all numbers are of one.
            api_pb2.HParamInfo(name=name, type=_TYPES.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
            for name, value in self.values.items()
        ]
        metrics = [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group=run, tag=tag), display_name=f"{run}/{tag}"
            )
            for run, tag in self.metrics
        ]
        # Without a group: the directory is the row's name, also once it is moved or copied.
        start = summary.session_start_pb(self.values)
        # A resumed training begins the row anew: what it wrote before is struck out.
        self._write(-1, summary.experiment_pb(columns, metrics), start)

    def on_train_end(self, logs=None):
        self._write(0, summary.session_end_pb(api_pb2.STATUS_SUCCESS))

    def _write(self, after, *summaries):
        if distributed.rank() == 0:
            file = EventFile(self.log_dir, after)
            for each in summaries:
                file.summary(each, 0)
            file.close()
