"""Which methods of a model's own an evaluation refuses, since it would pass them by."""

import keras
import pytest

from tests.evaluation import cases
from tfadv import evaluation


def model_with(**methods):
    inner = cases.regression()
    return type("Own", (keras.Model,), methods)(inner.inputs, inner.outputs)


def evaluate(model):
    x, y = cases.images(model, 8)
    return evaluation.evaluate(model, (x, y))[0].correct


@pytest.mark.parametrize("name", ["test_step", "predict_step", "evaluate", "predict"])
def test_an_evaluation_refuses_what_it_would_pass_by(name):
    model = model_with(**{name: lambda self, *_, **__: None})
    with pytest.raises(ValueError, match=f"would pass by the {name} of Own") as raised:
        evaluate(model)
    assert "\n" not in str(raised.value)
    # The advice can be followed.
    assert evaluate(keras.Sequential([keras.Input(cases.SHAPE), model])) == 6


def test_it_takes_a_model_with_an_own_loss_and_own_training():
    def own(self, *args, **kwargs):
        raise NotImplementedError

    names = ("train_step", "fit", "compute_loss", "compute_metrics", "compile", "summary")
    assert evaluate(model_with(**dict.fromkeys(names, own))) == 6
