import hashlib

import keras

from tfadv import distributed
from tfadv.training import TrainingError
from tfadv.training.lockstep import leave_epoch


class SameWeights(keras.callbacks.Callback):
    """Makes sure, after every epoch, that all workers hold the same bits.

    They do by design: every worker changes its variables by the same means. A kernel that gives
    other bits on another machine, or memory that fails, breaks that silently, and each worker then
    trains a network of its own. What is compared is a digest of every variable of the model and the
    optimizer; put it before `Checkpoint`, so that nothing is written of which that is not true.

    Raises:
        TrainingError: From `fit`, on all workers, with the first variable that differs.
    """

    def on_epoch_end(self, epoch, logs=None):
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
