import dataclasses


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come, and what of it neither model nor optimizer holds.

    Attributes:
        epoch: Integer, finished epochs.
        step: Integer, finished updates of the epoch after those.
        workers: Integer, how many workers there were.
        sums: Dictionary, name -> nested lists of numbers: what `AdversarialStep.sums` was after
            `step` updates; None at the end of an epoch, when every sum begins anew.
        averaged: Boolean, whether the file's model has the averages that its optimizer keeps of its
            weights, and the optimizer the weights that train; they are exchanged.
    """

    epoch: int = 0
    step: int = 0
    workers: int = 1
    sums: dict | None = None
    averaged: bool = False

    def __str__(self):
        epochs = f"epoch {self.epoch}" if self.epoch else ""
        if not self.step:
            return epochs
        return f"{epochs} and {self.step} updates" if epochs else f"{self.step} updates"
