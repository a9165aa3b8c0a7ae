"""Metrics of `validation_data`, over the images of all workers."""

import numpy as np

from tfadv import distributed


class ValidationLogs:
    """Gives every worker the `val_` logs over the validation images of all workers.

    Compiled metrics are those of all images: their states are added up, as `keras.Metric` means
    them to be. Other logs, of a `test_step` of the model's own, are means over the workers,
    weighted by their images. A worker that did not validate gets the logs of those that did.

    Args:
        model: A compiled Keras model.
    """

    def __init__(self, model):
        self._model = model
        self._mine = None

    def take(self, logs):
        """Takes what this worker's validation ended with: before anything evaluates again.

        Args:
            logs: As of `keras.callbacks.Callback.on_test_end`.
        """
        states = [variable.numpy() for variable in self._model.metrics_variables]
        # Keras counts the images of an evaluation in the loss it reports.
        counts = [float(m.count) for m in self._model.metrics if m.name == "loss"]
        self._mine = (dict(logs or {}), states, counts[0] if counts else 1.0)

    def average(self, logs):
        """Puts the values over all workers into the logs of an epoch, on all workers.

        Args:
            logs: As of `keras.callbacks.Callback.on_epoch_end`.
        """
        mine, self._mine = self._mine, None
        given = [each for each in distributed.gather_object(mine) if each is not None]
        if not given or logs is None:
            return
        values = self._results([states for _, states, _ in given])
        for name in given[0][0]:
            if name not in values:
                weights = [images for _, _, images in given]
                values[name] = np.average([each[name] for each, _, _ in given], 0, weights)
        for name in given[0][0]:
            value = np.asarray(values[name])
            logs[f"val_{name}"] = float(value) if value.ndim == 0 else value

    def _results(self, states):
        variables = self._model.metrics_variables
        before = [variable.numpy() for variable in variables]
        for variable, *of_workers in zip(variables, *states, strict=True):
            # The first worker's where the states of several are not to be added.
            combine = {"sum": np.sum, "mean": np.mean}.get(variable.aggregation, lambda a, _: a[0])
            variable.assign(combine(np.asarray(of_workers, np.float64), 0).astype(variable.dtype))
        results = self._model.get_metrics_result()
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return results
