import contextlib
import csv
import os
import sys

import tensorflow as tf

from tfadv import data, distributed, models
from tfadv.data import image_folder
from tfadv.programs import loading


def prepare(settings, path):
    """Everything of a prediction up to its first image, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `command_lines.predict`.
        path: Of a `.keras` file.

    Returns:
        A `PredictionRun`.
    """
    files = image_folder.list_files(settings.directory)
    distributed.init()  # which leaves others on a GPU its memory
    model = loading.classifier(path, settings.value_range)
    models.check_outputs(model, attacked=False)
    shape = tuple(model.input_shape[1:])
    if None in shape[:2] and settings.image_size is None:
        raise ValueError(f"image_size must be given for a model that takes any; {path} does")
    if settings.image_size is not None:
        size = (settings.image_size, settings.image_size)
        if any(taken not in (None, given) for taken, given in zip(shape, size, strict=False)):
            raise ValueError(
                f"image_size must be that of the model, {shape[0]}x{shape[1]}; received {size[0]}"
            )
        shape = (*size, shape[2])
    if settings.domain == "clean" and not models.mixtures(model):
        raise ValueError(
            f"domain=clean needs a model with mixture batch normalization; {path} has none"
        )
    names = _class_names(settings, model.output_shape[-1]) if settings.class_names else None
    return PredictionRun(settings, model, files, shape, names)


class PredictionRun:
    """A run of `tfadv.predict`, ready to start."""

    def __init__(self, settings, model, files, image_shape, class_names):
        self.settings = settings
        self.files = files
        self.image_shape = image_shape
        self.class_names = class_names
        self._model = models.logits(model)
        # What the network itself makes of its logits: of a sigmoid one probability for each class.
        sigmoid = models.final_activation(model) == "sigmoid"
        self._activation = tf.sigmoid if sigmoid else tf.nn.softmax
        self._classify = tf.function(self._classes, autograph=False)

    def run(self):
        """Classifies and writes; returns the number of files that could not be read."""
        settings, unread = self.settings, 0
        files = iter(self.files)
        with _writer(settings.output) as write:
            for images, readable in image_folder.unlabelled_batches(
                settings.directory, self.files, self.image_shape, settings.batch_size
            ):
                classes = (tensor.numpy() for tensor in self._classify(images))
                # The last batch is padded beyond the files.
                for *each, file, ok in zip(*classes, files, readable, strict=False):
                    if ok:
                        write([file, *self._columns(*each)])
                    else:
                        unread += 1
                        _say(f"cannot be read as an image, left out: {file}")
        if unread:
            _say(f"{unread} of {len(self.files)} files could not be read")
        return unread

    def _columns(self, label, probability):
        columns = [int(label)]
        if self.class_names is not None:
            columns.append(self.class_names[label])
        if self.settings.probability:
            columns.append(f"{probability:.6f}")
        return columns

    def _classes(self, images):
        """The class of each image and its probability."""
        logits = models.call(self._model, tf.cast(images, tf.float32), domain=self.settings.domain)
        logits = tf.cast(logits, tf.float32)
        # Of the logits, since several sigmoids of a confident network may be exactly 1.
        return tf.argmax(logits, axis=-1), tf.reduce_max(self._activation(logits), axis=-1)


def _class_names(settings, num_classes):
    names = data.load(settings.dataset, settings.data_dir).class_names
    if names is None:
        raise ValueError(f"class_names needs a data set that has them; {settings.dataset} has none")
    if len(names) != num_classes:
        raise ValueError(
            f"dataset must have the model's {num_classes} classes; "
            f"{settings.dataset} has {len(names)}"
        )
    return names


@contextlib.contextmanager
def _writer(path):
    """A function that writes one row, to a file that is whole or not there, or to stdout."""
    if path is None:
        sys.stdout.reconfigure(errors="surrogateescape")  # as below
        yield csv.writer(sys.stdout, lineterminator="\n").writerow
        sys.stdout.flush()
        return
    temporary = f"{path}.tmp"
    try:
        # Names of files need not be text: their bytes come out as they were.
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield csv.writer(file, lineterminator="\n").writerow
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _say(message):
    message = message.encode(errors="backslashreplace").decode()
    print(f"tfadv.predict: {message}", file=sys.stderr, flush=True)
