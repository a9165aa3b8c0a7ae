import os

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api

from tfadv import distributed


class HyperParameters(keras.callbacks.Callback):
    """Writes what a training was started with to TensorBoard's HPARAMS tab; on rank 0.

    Trainings below one `--logdir` then stand in one table there, beside their metrics.

    Args:
        log_dir: String or path, the run's directory.
        values: Dictionary, name -> string, number or boolean.
        metrics: List of pairs (tag, sub-run) of the scalars to show, as of `TrainingScalars`; a
            sub-run is a path below `log_dir`, or `""`.
    """

    def __init__(self, log_dir, values, metrics=()):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.values = dict(values)
        self.metrics = list(metrics)

    def on_train_begin(self, logs=None):
        if distributed.rank() != 0:
            return
        metrics = [
            api.Metric(tag, group=run, display_name="/".join(filter(None, (run, tag))))
            for tag, run in self.metrics
        ]
        writer = tf.summary.create_file_writer(self.log_dir)
        with writer.as_default(step=0):
            api.hparams_config(hparams=list(map(api.HParam, self.values)), metrics=metrics)
            api.hparams(self.values, trial_id=self.log_dir)
        writer.close()
