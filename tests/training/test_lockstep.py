"""Validation metrics over the images of several workers, here one after the other in one process.

Real workers: tests/callbacks/test_lockstep_workers.py.
"""

import keras
import numpy as np
import pytest

from tests.training import cases
from tfadv import distributed
from tfadv.training.lockstep import ValidationLogs

ANY = cases.images(1)  # of a worker that trains, and does not validate


class Workers:
    """Models that share nothing but what they give to `gather_object`."""

    def __init__(self, monkeypatch, make, data):
        self.models, given = [make() for _ in data], []
        averages = [ValidationLogs(model) for model in self.models]
        for model, average, images in zip(self.models, averages, data, strict=True):
            results = model.evaluate(*(images or ANY), verbose=0, return_dict=True)
            if images is not None:
                average.take(results)
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "gather_object", lambda mine: given.append(mine) or given)
            for average in averages[:-1]:
                average.average(None)  # what each gives
            self.logs = {"loss": 1.0, "val_pgd10_accuracy": 0.25, "val_loss": 9.0}
            averages[-1].average(self.logs)


def compiled():
    model = cases.network()
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    return cases.compiled(model, metrics=metrics)


def test_metrics_are_those_of_all_images(monkeypatch):
    x, y = cases.images(40)
    workers = Workers(monkeypatch, compiled, [(x[:10], y[:10]), (x[10:], y[10:])])
    expected = workers.models[0].evaluate(x, y, verbose=0, return_dict=True)
    for name, value in expected.items():
        assert workers.logs[f"val_{name}"] == pytest.approx(value, rel=1e-6)
    # Logs that other callbacks added, such as `RobustEvaluation`, are not this one's.
    assert workers.logs["loss"] == 1.0 and workers.logs["val_pgd10_accuracy"] == 0.25
    # The states are those of the last evaluation, as if nobody had looked.
    mine = workers.models[1]
    before = mine.evaluate(x[10:], y[10:], verbose=0, return_dict=True)
    assert {name: float(v) for name, v in mine.get_metrics_result().items()} == before


def test_metrics_that_are_no_means_are_of_all_images_too(monkeypatch):
    # The area under the curve of all is not the mean of the areas of each.
    def binary():
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
        model.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
        return model

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)) + np.linspace(0, 2, 30)[:, None], rng.integers(0, 2, 30)
    parts = [(x[:8], y[:8]), (x[8:], y[8:])]
    workers = Workers(monkeypatch, binary, parts)
    model = workers.models[0]
    of_all = model.evaluate(x, y, verbose=0, return_dict=True)["auc"]
    mean = np.mean([model.evaluate(*part, verbose=0, return_dict=True)["auc"] for part in parts])
    assert workers.logs["val_auc"] == pytest.approx(of_all, abs=1e-6)
    assert abs(of_all - mean) > 0.01


def test_a_worker_that_did_not_validate_gets_the_logs_of_those_that_did(monkeypatch):
    x, y = cases.images(12)
    workers = Workers(monkeypatch, compiled, [(x, y), None])
    expected = workers.models[0].evaluate(x, y, verbose=0, return_dict=True)
    assert workers.logs["val_loss"] == pytest.approx(expected["loss"])
    nobody = Workers(monkeypatch, compiled, [None, None])
    assert nobody.logs == {"loss": 1.0, "val_pgd10_accuracy": 0.25, "val_loss": 9.0}


def test_logs_of_an_own_test_step_are_means_over_images(monkeypatch):
    x, y = cases.images(12)
    model = compiled()
    mine = ValidationLogs(model)
    model.evaluate(x, y, verbose=0)
    mine.take({"own": 2.0})
    other = ({"own": 5.0}, [v.numpy() for v in model.metrics_variables], 4.0)
    monkeypatch.setattr(distributed, "gather_object", lambda given: [given, other])
    mine.average(logs := {})
    assert logs == {"val_own": pytest.approx((12 * 2 + 4 * 5) / 16)}
