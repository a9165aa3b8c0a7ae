import os

import keras
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.scalar import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfadv import distributed


class TrainingScalars(keras.callbacks.Callback):
    """Writes the logs of every epoch to TensorBoard, against the number of updates; on rank 0.

    What belongs to a domain becomes a TensorBoard run of its own, so that both share a chart:

    - `{log_dir}`: `learning_rate`, `loss`, `accuracy`, `attack_success` and further logs, and of
      evaluations `validation/clean_accuracy`, `validation/pgd10_accuracy`,
      `validation/pgd10_success` and so on
    - `{log_dir}/adv`, `{log_dir}/clean`: `loss` and `accuracy` of the domain's images; in `clean`
      also `validation/...` of a mixture's clean branch

    The step is `optimizer.iterations`, which goes on counting in a resumed training. What a killed
    training wrote after its last checkpoint is then struck out. Put the callback behind those that
    add to the logs.

    Args:
        log_dir: String or path, the run's directory.
    """

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self._writers = {}

    def on_train_begin(self, logs=None):
        self._close()  # of a training that an exception ended
        if distributed.rank() != 0:
            return
        for run in ("", "adv", "clean"):
            writer = EventFileWriter(os.path.join(self.log_dir, run))
            # TensorBoard drops what other files say of this step and later ones.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.add_event(event_pb2.Event(step=self._step() + 1, session_log=start))
            writer.flush()
            self._writers[run] = writer

    def on_epoch_end(self, epoch, logs=None):
        if not self._writers:
            return
        values = {"learning_rate": float(self.model.optimizer.learning_rate), **(logs or {})}
        for name, value in values.items():
            run, tag = _place(name)
            summary = summary_v2.scalar_pb(tag, float(value))
            self._writers[run].add_event(event_pb2.Event(step=self._step(), summary=summary))
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _step(self):
        return int(self.model.optimizer.iterations)

    def _close(self):
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _place(name):
    """The sub-run and the tag of a log."""
    if name.startswith("val_"):
        tag = f"validation/{name.removeprefix('val_').removesuffix('_clean_branch')}"
        return ("clean" if name.endswith("_clean_branch") else ""), tag
    domain, _, rest = name.partition("_")
    return (domain, rest) if domain in ("adv", "clean") and rest else ("", name)
