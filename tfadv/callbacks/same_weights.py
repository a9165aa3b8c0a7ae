import hashlib

import keras

from tfadv import distributed
from tfadv.training import TrainingError
from tfadv.training.lockstep import leave_epoch


class SameWeights(keras.callbacks.Callback):
    """Checks after every epoch that all workers hold the same bits.

    They do by design: every worker changes its variables by the same means. A kernel that computes
    other bits on another machine, or failing memory, breaks that silently, and then each worker
    trains its own network. This callback compares a digest of every variable of the model and the
    optimizer. Put it before `Checkpoint`, so that diverged weights are never saved.

    Raises:
        TrainingError: From `fit`, on all workers, naming the first variable that differs.

    Example:

    ```python
    model.fit(images, labels, callbacks=[
        tfadv.callbacks.AdversarialTraining(attack),
        tfadv.callbacks.SameWeights(),
        tfadv.callbacks.Checkpoint("checkpoints"),
    ])
    ```
    """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if distributed.size() == 1:
            return
        leave_epoch(self.model)
        variables = self.model.variables + self.model.optimizer.variables
        digests = [hashlib.blake2b(v.numpy().tobytes(), digest_size=8).digest() for v in variables]
        gathered = distributed.gather_object(digests)
        for variable, of_workers in zip(variables, zip(*gathered, strict=True), strict=True):
            others = [rank for rank, one in enumerate(of_workers) if one != of_workers[0]]
            if others:
                raise TrainingError(
                    f"weights must be the same on all workers; after epoch {epoch + 1} "
                    f"{variable.path} of worker {others[0]} differs from that of worker 0"
                )
