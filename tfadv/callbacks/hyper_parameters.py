import os
from collections.abc import Iterable, Mapping

import keras
from tensorboard.plugins.hparams import api_pb2, summary

from tfadv import distributed
from tfadv.event_files import EventFile

_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}


class HyperParameters(keras.callbacks.Callback):
    """Writes the settings of a training to TensorBoard's HPARAMS tab, on rank 0.

    There all trainings below one `--logdir` make one table, with their metrics and whether they
    have finished. TensorBoard takes the columns from one of the trainings.

    Args:
        log_dir: String or path, the directory of the run. It should hold no event files other than
            those of its sub-runs.
        values: Dictionary, name -> string, number or boolean.
        metrics: List of pairs (sub-run, tag) of the scalars to show, such as
            `("validation", "robust_accuracy/pgd10")` of `TrainingScalars`; a sub-run is a path
            below `log_dir`.

    Example:

    ```python
    settings = tfadv.callbacks.HyperParameters("runs/x", {"norm": "mbn", "epsilon": 16.0})
    model.fit(images, labels, callbacks=[settings])
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        values: Mapping[str, str | float | bool],
        metrics: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.values = dict(values)
        self.metrics = list(metrics)

    def on_train_begin(self, logs: dict | None = None) -> None:
        columns = [
            # The type decides which filter the tab offers, the same for all numbers.
            api_pb2.HParamInfo(name=name, type=_TYPES.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
            for name, value in self.values.items()
        ]
        metrics = [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group=run, tag=tag), display_name=f"{run}/{tag}"
            )
            for run, tag in self.metrics
        ]
        # Without a group the directory is the row's name, even after it is moved or copied.
        start = summary.session_start_pb(self.values)
        # The row of a resumed training begins again: what it wrote before is struck out.
        self._write(-1, summary.experiment_pb(columns, metrics), start)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._write(0, summary.session_end_pb(api_pb2.STATUS_SUCCESS))

    def _write(self, after, *summaries):
        if distributed.rank() == 0:
            file = EventFile(self.log_dir, after)
            for each in summaries:
                file.summary(each, 0)
            file.close()
