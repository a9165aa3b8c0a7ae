import os

import keras

from tfadv import distributed
from tfadv.event_files import EventFile


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
        if distributed.rank() == 0:
            # A resumed training begins the row again: what it wrote before is struck out.
            file = EventFile(self.log_dir, -1)
            file.hyper_parameters(self.values, self.metrics)
            file.close()

    def on_train_end(self, logs=None):
        if distributed.rank() == 0:
            file = EventFile(self.log_dir, 0)
            file.success()
            file.close()
