"""Miniature versions of ImageNet's two archives, and the files prepared from them."""

import io
import os
import tarfile

import numpy as np
from PIL import Image

from tfadv.data import tfds_files
from tfadv.tables import datasets


def make(manual_dir, num_train_per_class=4, num_classes=3, num_validation=7):
    """Writes archives of small JPEGs in ImageNet's format to a directory, which it makes.

    Classes are the first of ImageNet's thousand. Each image has the colour of its label, so that a
    network can learn them; sizes vary. One training image is grey and one CMYK, as some of
    ImageNet's are. The labels of the validation images are those of ImageNet's first ones, whatever
    `num_classes` is, because they come from a list in tensorflow-datasets.

    Returns:
        `(train, validation)`: dicts from a file's name to its label.
    """
    os.makedirs(manual_dir, exist_ok=True)
    synsets, validation_labels = _resources()
    train, validation = {}, {}
    modes = {1: "L", 2: "CMYK"}
    with tarfile.open(os.path.join(manual_dir, datasets.IMAGENET_ARCHIVES[0]), "w") as archive:
        for label in range(num_classes):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for index in range(num_train_per_class):
                    name = f"{synsets[label]}_{index}.JPEG"
                    mode = modes.get(len(train), "RGB")
                    _add(images, name, jpeg(label, seed=len(train), mode=mode))
                    train[name] = label
            _add(archive, f"{synsets[label]}.tar", inner.getvalue())
    with tarfile.open(os.path.join(manual_dir, datasets.IMAGENET_ARCHIVES[1]), "w") as archive:
        for index in range(num_validation):
            name = f"ILSVRC2012_val_{index + 1:08d}.JPEG"
            validation[name] = synsets.index(validation_labels[index])
            _add(archive, name, jpeg(validation[name], seed=10**6 + index))
    return train, validation


def prepare(data_dir, manual_dir=None, **sizes):
    """Makes the archives and prepares them as `python -m tfadv.data prepare` does.

    Args:
        data_dir: Where the prepared files go.
        manual_dir: Where the archives go; inside `data_dir` by default.
        **sizes: Arguments of `make`.

    Returns:
        What `make` returns.
    """
    manual_dir = str(manual_dir or os.path.join(data_dir, "archives"))
    result = make(manual_dir, **sizes)
    tfds_files.prepare("imagenet2012", str(data_dir), manual_dir)
    return result


def jpeg(label, seed, mode="RGB"):
    """The bytes of a JPEG of 60 to 130 pixels a side: a colour for the label, and some noise."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    height, width = generator.integers(60, 131, 2)
    colour = np.random.Generator(np.random.Philox(key=label)).integers(40, 216, 3)
    pixels = colour + generator.normal(0, 10, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=90)
    return file.getvalue()


def _resources():
    import tensorflow_datasets as tfds

    folder = tfds.core.tfds_path("datasets/imagenet2012")
    return [(folder / name).read_text().split() for name in ("labels.txt", "validation_labels.txt")]


def _add(archive, name, contents):
    item = tarfile.TarInfo(name)
    item.size = len(contents)
    archive.addfile(item, io.BytesIO(contents))


def cut_short(monkeypatch, broken_seed):
    """Cuts the JPEGs of this seed, in archives made from now on, to their first 400 bytes."""
    good = jpeg

    def cut(label, seed, mode="RGB"):
        return good(label, seed, mode)[: 400 if seed == broken_seed else None]

    monkeypatch.setitem(globals(), "jpeg", cut)
