import numpy as np
import tensorflow_datasets as tfds

from tests.data import miniature_imagenet
from tfadv import data
from tfadv.data import __main__ as program
from tfadv.data import tfds_files


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
    assert dataset.class_names == names
    images, labels, _ = next(iter(dataset.validation_batches(4)))
    by_image = dict(zip((image.tobytes() for image in images.numpy()), labels, strict=True))
    for record in records["test_batch.bin"]:
        image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        assert by_image[image.tobytes()] == record[0]
