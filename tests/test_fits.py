import threading

import keras
import numpy as np
import pytest

from tfadv import fits


class Watched(keras.callbacks.Callback):
    def __init__(self, fail):
        super().__init__()
        self.fail, self.seen = fail, []

    def on_train_begin(self, logs=None):
        self.fit = fits.Fit()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.fit())
        thread = threading.Thread(target=lambda: self.seen.append(self.fit()))
        thread.start()
        thread.join()
        if self.fail:
            raise KeyError


@pytest.mark.parametrize("fail", [False, True])
def test_a_fit_runs_until_it_ends_or_an_exception_ends_it(fail):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = Watched(fail)
    x = np.zeros((4, 2))

    def fit():
        model.fit(x, x[:, :1], verbose=0, callbacks=[callback])

    if fail:
        with pytest.raises(KeyError):
            fit()
    else:
        fit()
    assert callback.seen == [True, True]
    assert not callback.fit()
    # Another one is not that one.
    first = callback.fit
    model.fit(
        x,
        x[:, :1],
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda *_, **__: callback.seen.append(first())
            )
        ],
    )
    assert callback.seen[-1] is False


def test_outside_of_any_fit_nothing_ends():
    assert fits.Fit()()
