import keras
import pytest

from tests.evaluation import cases
from tests.models import chains
from tfadv import evaluation, layers, models


def build(contract=True, form="flat"):
    first = [layers.InputContract((0.0, 1.0), "BGR")] if contract else []
    if form == "nested":
        first = [chains.functional(first, (4,))]
    return chains.functional([*first, keras.layers.Dense(2)], (4,), name="model")


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_the_contract_is_found(form):
    contract = models.contract(build(form=form))
    assert contract.value_range == (0.0, 1.0) and contract.channel_order == "BGR"


def test_a_model_without_a_contract():
    assert models.contract(build(False)) is None
    assert models.value_range(build(False), (0, 255)) == (0.0, 255.0)
    message = "^value_range must be given, as model 'model' carries no input contract; "
    with pytest.raises(ValueError, match=message):
        models.value_range(build(False))


@pytest.mark.parametrize("given", [None, (0, 1), [0.0, 1.0]])
def test_the_range_is_that_of_the_contract(given):
    assert models.value_range(build(), given) == (0.0, 1.0)


def test_a_range_that_contradicts_the_contract_is_refused():
    message = r"^value_range must be \(0.0, 1.0\), which .* 'model' states; received \(0, 255\)$"
    with pytest.raises(ValueError, match=message):
        models.value_range(build(), (0, 255))


def model_with(**methods):
    inner = cases.regression()
    return type("Own", (keras.Model,), methods)(inner.inputs, inner.outputs)


def evaluate(model):
    x, y = cases.images(model, 8)
    return evaluation.evaluate(model, (x, y))[0].correct


@pytest.mark.parametrize("name", ["test_step", "predict_step", "evaluate", "predict"])
def test_an_evaluation_refuses_a_method_that_it_would_bypass(name):
    model = model_with(**{name: lambda self, *_, **__: None})
    with pytest.raises(ValueError, match=f"would bypass the {name} of Own") as raised:
        evaluate(model)
    assert "\n" not in str(raised.value)
    # The advice can be followed.
    assert evaluate(keras.Sequential([keras.Input(cases.SHAPE), model])) == 6


def test_it_takes_a_model_with_an_own_loss_and_own_training():
    def own(self, *args, **kwargs):
        raise NotImplementedError

    names = ("train_step", "fit", "compute_loss", "compute_metrics", "compile", "summary")
    assert evaluate(model_with(**dict.fromkeys(names, own))) == 6
