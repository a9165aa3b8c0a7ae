import numpy as np
import pytest

from tests.training import cases
from tfadv import callbacks, distributed
from tfadv.training import TrainingError


def test_weights_that_differ_between_workers_are_an_error(monkeypatch):
    model = cases.compiled(cases.network())
    model.optimizer.build(model.trainable_variables)
    callback = callbacks.SameWeights()
    callback.set_model(model)
    callback.on_epoch_end(0)  # alone there is no one to differ from
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "gather_object", lambda mine: [mine] * 3)
    callback.on_epoch_end(0)

    def gather(mine):
        bias = model.get_layer("logits").bias
        kept = bias.numpy()
        bias.assign(np.nextafter(kept, np.float32(9)))  # the last bit of four numbers
        its = []
        monkeypatch.setattr(distributed, "gather_object", lambda of: its.append(of) or [of] * 3)
        callback.on_epoch_end(0)
        bias.assign(kept)
        return [mine, mine, its[0]]

    monkeypatch.setattr(distributed, "gather_object", gather)
    with pytest.raises(TrainingError, match="after epoch 5 .*logits/bias of worker 2 differs"):
        callback.on_epoch_end(4)
