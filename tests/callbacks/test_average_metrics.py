import keras
import numpy as np
import pytest

from tfadv import callbacks, distributed


def test_metrics_are_weighted_by_the_images_of_each_worker(monkeypatch):
    # The other worker has 30 images, a loss of 5 and an accuracy of 1.
    other = {"val_accuracy": 1.0, "val_loss": 5.0}

    def total(values):
        return np.asarray(values) + [30.0, *(30.0 * other[name] for name in sorted(other))]

    monkeypatch.setattr(distributed, "total", total)
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    x, y = rng.normal(size=(10, 4)), rng.integers(0, 3, 10)
    seen = model.fit(
        x, y, validation_data=(x, y), verbose=0, callbacks=[callbacks.AverageMetrics()]
    ).history
    mine = model.evaluate(x, y, verbose=0, return_dict=True)
    for name in ("loss", "accuracy"):
        expected = (10 * mine[name] + 30 * other[f"val_{name}"]) / 40
        assert seen[f"val_{name}"] == [pytest.approx(expected, abs=1e-6)]
