"""`tfadv.predict`, from its command line to its last line."""

import contextlib
import csv
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

from tfadv.programs import flags, rules
from tfadv.programs.run_directory import check_file, model_file
from tfadv.settings import PREDICT
from tfadv.tables import datasets


def parse(arguments: list[str]) -> tuple[SimpleNamespace, Path]:
    """Parses and checks the command line, without TensorFlow.

    Returns:
        The settings, and the file of the model.
    """
    settings = flags.parse(
        PREDICT,
        arguments,
        positional="directory",
        description="Classifies the images of a directory, and prints a line for each: its file, "
        "the number of its class, and the name of the class where it is known.",
    )
    rules.check_model(settings)
    rules.check_one_process("predict")
    if len(settings.directory) > 1:
        raise ValueError(f"one directory must be given; received {' '.join(settings.directory)}")
    [settings.directory] = settings.directory
    if settings.class_names and not (settings.run_dir or settings.dataset):
        raise ValueError("class_names needs run_dir, or dataset with model; received neither")
    path, _ = model_file(settings)
    if settings.output:
        check_file(settings.output)
    if settings.class_names:
        datasets.check(settings.dataset, settings.data_dir)
    return settings, path


def prepare(settings: SimpleNamespace, path: Path) -> "PredictionRun":
    """Loads the model, lists the files, and checks that the settings fit both."""
    from tfadv import distributed, models
    from tfadv.data import image_folder
    from tfadv.programs import building

    files = image_folder.list_files(settings.directory)
    distributed.init()  # lets TensorFlow take no more of a GPU's memory than it needs
    model = building.classifier(path, settings.value_range)
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
    names = _class_names(settings, model.output_shape[-1])
    batches = image_folder.unlabelled_batches(settings.directory, files, shape, settings.batch_size)
    return PredictionRun(settings, files, batches, _classifier(model, settings.domain), names)


def _class_names(settings, num_classes):
    """The names of the classes; None if none are to be written, or none are known."""
    from tfadv import data

    name, wanted = settings.dataset, settings.class_names
    if wanted is False or name is None:
        return None
    try:
        names = datasets.class_names(name, settings.data_dir)
        if names is None and wanted:
            names = data.load(name, settings.data_dir).class_names
            if names is None:
                raise ValueError(f"class_names needs a data set that has them; {name} has none")
        if names is not None and len(names) != num_classes:
            raise ValueError(
                f"dataset must have the model's {num_classes} classes; {name} has {len(names)}"
            )
    except (ValueError, OSError) as error:
        if wanted:
            raise
        _say(f"the names of the classes are left out: {error}")
        return None
    return names


def _classifier(model, domain):
    """A function from images to the class of each and its probability."""
    import tensorflow as tf

    from tfadv import models

    network = models.logits(model)
    # A network that ends in a sigmoid has a probability of its own for each class.
    sigmoid = models.final_activation(model) == "sigmoid"

    def classify(images):
        logits = models.call(network, tf.cast(images, tf.float32), domain=domain)
        logits = tf.cast(logits, tf.float32)
        probabilities = tf.sigmoid(logits) if sigmoid else tf.nn.softmax(logits)
        # By the logits, since several sigmoids of a confident network may be exactly 1.
        return tf.argmax(logits, axis=-1), tf.reduce_max(probabilities, axis=-1)

    return tf.function(classify, autograph=False)


@dataclasses.dataclass
class PredictionRun:
    """A prediction that is ready to start."""

    settings: SimpleNamespace
    files: list[str]
    batches: Iterable
    classify: Callable
    class_names: list[str] | None

    def run(self) -> int:
        """Classifies the images and writes the lines; returns the number of unreadable files."""
        unread = 0
        files = iter(self.files)
        with _writer(self.settings.output) as write:
            for images, readable in self.batches:
                classes = (tensor.numpy() for tensor in self.classify(images))
                # The last batch is padded and so longer than the files.
                for label, probability, file, ok in zip(*classes, files, readable, strict=False):
                    if ok:
                        write([file, *self._columns(label, probability)])
                    else:
                        unread += 1
                        _say(f"skipped a file that cannot be read as an image: {file}")
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


@contextlib.contextmanager
def _writer(path):
    """A function that writes one row, to stdout or to a file that appears once it is complete."""
    # The names of files need not be text: their bytes are written as they are.
    if path is None:
        sys.stdout.reconfigure(errors="surrogateescape")
        yield csv.writer(sys.stdout, lineterminator="\n").writerow
        sys.stdout.flush()
        return
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield csv.writer(file, lineterminator="\n").writerow
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _say(message):
    message = message.encode(errors="backslashreplace").decode()
    print(f"tfadv.predict: {message}", file=sys.stderr, flush=True)
