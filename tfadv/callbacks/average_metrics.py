import keras

from tfadv import distributed


class AverageMetrics(keras.callbacks.Callback):
    """Averages the `validation_data` metrics of `fit` over the workers, weighted by their images.

    `metric = sum(images * metric) / sum(images)`, the sums over workers

    For training in which each worker validates on a share of the data. (`AdversarialTraining` and
    `RobustEvaluation` reduce their own metrics.) Put it before the callbacks that read the logs, so
    that all workers stop early or reduce the learning rate at the same epoch.
    """

    def on_epoch_end(self, epoch, logs=None):
        names = sorted(name for name in logs or {} if name.startswith("val_"))
        if not names:
            return
        # Keras counts the images of the last evaluation in the loss it reports.
        images = next(float(m.count) for m in self.model.metrics if m.name == "loss")
        sums = distributed.total([images, *(images * float(logs[name]) for name in names)])
        logs.update(zip(names, (float(value) for value in sums[1:] / sums[0]), strict=True))
