import gzip

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data import miniature_imagenet
from tfadv import data
from tfadv.data import __main__ as program
from tfadv.data import tfds_files
from tfadv.tables import datasets


def _refusal(capsys, *arguments):
    assert program.main(["prepare", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def test_mistakes_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    here = f"--data_dir={tmp_path / 'data'}"
    assert "imagenet2012 can be prepared; received 'digits'" in _refusal(capsys, "digits")
    assert "manual_dir must be the directory" in _refusal(capsys, "imagenet2012", here)
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    line = _refusal(capsys, "imagenet2012", here, f"--manual_dir={tmp_path}")
    assert f"{tmp_path} has no ILSVRC2012_img_val.tar" in line
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    line = _refusal(capsys, "mnist", here)
    assert "prepare must run as a single process; received 2 workers" in line
    assert not (tmp_path / "data").exists()


def test_the_program_prepares_imagenet_once(tmp_path, capsys):
    tfds.disable_progress_bar()
    archives = tmp_path / "archives"
    miniature_imagenet.make(archives, num_train_per_class=1, num_classes=2, num_validation=1)
    arguments = ["prepare", "imagenet2012", f"--data_dir={tmp_path}"]
    assert program.main([*arguments, f"--manual_dir={archives}"]) == 0
    assert program.main(arguments) == 0  # Already there: needs no archives.
    assert "imagenet2012 is prepared in" in capsys.readouterr().out
    assert data.load("imagenet2012", str(tmp_path)).num_train == 2


def test_cifar_is_prepared_from_its_original_format(tmp_path, monkeypatch):
    tfds.disable_progress_bar()
    batches = tmp_path / "downloads" / "cifar-10-batches-bin"
    batches.mkdir(parents=True)
    names = [f"kind {label}" for label in range(10)]
    (batches / "batches.meta.txt").write_text("\n".join(names) + "\n")
    generator = np.random.default_rng(0)
    files = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    records = {name: generator.integers(0, 256, (4, 3073), dtype=np.uint8) for name in files}
    for name, record in records.items():
        record[:, 0] %= 10  # A label, then 1024 values each of red, green and blue.
        (batches / name).write_bytes(record.tobytes())
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(batches.parent)
    )
    tfds_files.prepare("cifar10", str(tmp_path))

    dataset = data.load("cifar10", str(tmp_path))
    assert (dataset.num_train, dataset.num_validation) == (20, 4)
    assert dataset.class_names == names == datasets.class_names("cifar10", str(tmp_path))
    images, labels, _ = next(iter(dataset.validation_batches(4)))
    by_image = dict(zip((image.tobytes() for image in images.numpy()), labels, strict=True))
    for record in records["test_batch.bin"]:
        image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        assert by_image[image.tobytes()] == record[0]


def _write_mnist(folder, counts):
    """Writes MNIST's four files; in each image the pixel at the place of its label is white."""
    for split, count in counts.items():
        labels = (np.arange(count) % 10).astype("uint8")
        images = np.zeros((count, 28, 28), "uint8")
        images[np.arange(count), labels, labels] = 255
        sizes = [[count, 28, 28], [count]]
        kinds = ("images-idx3", "labels-idx1")
        for kind, array, size in zip(kinds, (images, labels), sizes, strict=True):
            header = np.array([0x0800 + len(size), *size], ">i4").tobytes()
            with gzip.open(folder / f"{split}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + array.tobytes())


def test_files_of_mnist_that_cannot_be_used_are_refused(tmp_path, capsys):
    arguments = ["fashion_mnist", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={tmp_path}"]
    line = _refusal(capsys, *arguments)
    assert "manual_dir must hold train-images-idx3-ubyte or train-images-idx3-ubyte.gz" in line
    _write_mnist(tmp_path, {"train": 20, "t10k": 10})
    line = _refusal(capsys, *arguments)
    assert "train-images-idx3-ubyte of fashion_mnist must hold 60000 images; received 20" in line
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:20])
    assert "train-images-idx3-ubyte.gz cannot be unpacked" in _refusal(capsys, *arguments)
    assert not (tmp_path / "data" / "fashion_mnist").exists()


@pytest.mark.slow
def test_fashion_mnist_is_prepared_from_local_files(tmp_path):
    tfds.disable_progress_bar()
    _write_mnist(tmp_path, {"train": 60_000, "t10k": 10_000})
    tfds_files.prepare("fashion_mnist", str(tmp_path / "data"), str(tmp_path))
    dataset = data.load("fashion_mnist", str(tmp_path / "data"))
    assert (dataset.num_train, dataset.num_validation) == (60_000, 10_000)
    images, labels, _ = next(iter(dataset.validation_batches(100)))
    assert np.all(images.numpy()[np.arange(100), labels, labels, 0] == 255)
    names = datasets.class_names("fashion_mnist", str(tmp_path / "data"))
    assert dataset.class_names == names and names[0] == "T-shirt/top"
