import os
from collections.abc import Iterable, Mapping

import keras

from tfadv import distributed
from tfadv.event_files import EventFile


class HyperParameters(keras.callbacks.Callback):
    """Writes the settings of a training to TensorBoard's HPARAMS tab, on rank 0.

    There all trainings below one `--logdir` make one table, with their metrics and whether they
    have finished. The Trial ID of a row is the path of `log_dir`. TensorBoard takes the columns
    from one of the trainings, and shows the first five of the values and of the metrics until more
    are chosen.

    Args:
        log_dir: String or path, the directory of the run. It should hold no event files other than
            those of its sub-runs.
        values: Dictionary, name -> string, number or boolean.
        metrics: List of pairs (sub-run, tag) of the scalars to show, such as
            `("validation", "accuracy/pgd10")` of `TrainingScalars`; a sub-run is a path below
            `log_dir`.
        first: Names of the values whose columns come before the others. TensorBoard sorts both
            groups by name.

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
        first: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.values = dict(values)
        self.metrics = list(metrics)
        self.first = list(first)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if distributed.rank() == 0:
            # The row of a resumed training begins again: what it wrote before is struck out.
            file = EventFile(self.log_dir, -1)
            file.hyper_parameters(self.values, self.metrics, self.first)
            file.close()

    def on_train_end(self, logs: dict | None = None) -> None:
        if distributed.rank() == 0:
            file = EventFile(self.log_dir, 0)
            file.success()
            file.close()
