import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.data import miniature_imagenet
from tfadv import data
from tfadv.data import imagenet


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A miniature in three files a split: `(dataset, train labels, validation labels)`."""
    tfds.disable_progress_bar()
    root = tmp_path_factory.mktemp("sharded")
    labels = miniature_imagenet.make(root / "archives", 5, 4, 11)
    builder = tfds.builder("imagenet2012", data_dir=root)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=root / "archives", num_shards=3, try_download_gcs=False
        )
    )
    dataset = data.load("imagenet2012", str(root), image_size=16)
    assert len(dataset._train_split.filepaths) == len(dataset._validation_split.filepaths) == 3
    return dataset, *labels


def _names(dataset, count, rank, size, epoch=0, seed=0):
    """The files of a worker's epoch, in the order in which `train_batches` decodes them."""
    examples = (
        tf.data.Dataset.from_tensors(tf.constant(epoch, tf.int64))
        .flat_map(lambda epoch: dataset._epoch(epoch, count, rank, size, seed))
        .map(lambda position, example: (position, dataset._parse(example[0])["file_name"]))
    )
    positions, names = zip(*examples.as_numpy_iterator(), strict=True)
    assert list(positions) == list(range(rank * count, (rank + 1) * count))
    return [name.decode() for name in names]


def test_classes_shapes_and_types(sharded):
    dataset = sharded[0]
    assert dataset.num_classes == len(dataset.class_names) == 1000
    assert dataset.class_names[:2] == ["n01440764", "n01443537"]
    assert (dataset.num_train, dataset.num_validation) == (20, 11)
    images, labels = dataset.train_batches(4, 5).element_spec
    assert (images.shape, images.dtype) == ((4, 16, 16, 3), tf.uint8)
    assert (labels.shape, labels.dtype) == ((4,), tf.int32)
    images, labels, indices = dataset.validation_batches(4).element_spec
    assert (images.shape, labels.shape) == ((4, 16, 16, 3), (4,))
    assert (indices.shape, indices.dtype) == ((4,), tf.int64)


@pytest.mark.parametrize("size", [2, 5])
def test_an_epoch_shows_each_example_once_for_more_workers_than_files(sharded, size):
    dataset, labels, _ = sharded
    names = [name for rank in range(size) for name in _names(dataset, 20 // size, rank, size)]
    assert sorted(names) == sorted(labels)


def test_workers_are_disjoint_when_sizes_do_not_divide(sharded):
    names = [name for rank in range(3) for name in _names(sharded[0], 6, rank, 3)]
    assert len(set(names)) == 18


def test_an_epoch_longer_than_the_data_goes_round(sharded):
    dataset, labels, _ = sharded
    names = [name for rank in range(3) for name in _names(dataset, 15, rank, 3)]
    counts = collections.Counter(names)
    assert set(counts) == set(labels) and set(counts.values()) <= {2, 3}


def test_epochs_and_seeds_have_orders_of_their_own(sharded):
    orders = [_names(sharded[0], 20, 0, 1, *key) for key in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(order) for order in orders}) == 3
    # Also the composition of a worker's share changes from epoch to epoch.
    shares = {frozenset(_names(sharded[0], 5, 0, 4, epoch)) for epoch in range(3)}
    assert len(shares) > 1


def test_a_stream_resumes_with_the_same_bits_whatever_the_global_seed(sharded):
    dataset = sharded[0]
    whole = list(dataset.train_batches(2, 3, 1, 2, seed=7).take(9))
    tf.random.set_seed(99)
    try:
        resumed = list(dataset.train_batches(2, 3, 1, 2, 7, first_epoch=1, first_step=2).take(4))
    finally:
        tf.compat.v1.set_random_seed(None)
    for batch, expected in zip(resumed, whole[5:], strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])


def test_training_labels_are_right(sharded):
    dataset, expected, _ = sharded
    _, labels = next(iter(dataset.train_batches(20, 1)))
    assert np.bincount(labels).tolist() == [5, 5, 5, 5]
    names = _names(dataset, 20, 0, 1)
    assert [expected[name] for name in names] == labels.numpy().tolist()


@pytest.mark.parametrize(("size", "limit"), [(1, None), (5, None), (6, 4)])
def test_validation_shows_each_example_once_in_one_order(sharded, size, limit):
    dataset, _, labels = sharded
    paths = [str(path) for path in dataset._validation_split.filepaths]
    order = tf.data.TFRecordDataset(paths).map(lambda record: dataset._parse(record)["file_name"])
    order = [name.decode() for name in order.as_numpy_iterator()]
    seen = {}
    for rank in range(size):
        batches = list(dataset.validation_batches(2, rank, size, limit).as_numpy_iterator())
        assert len(batches) == data.validation_steps(limit or 11, 2, size)
        for images, batch_labels, indices in batches:
            assert images.shape == (2, 16, 16, 3) and not images[indices < 0].any()
            for index, label in zip(indices, batch_labels, strict=True):
                if index >= 0:
                    assert label == labels[order[index]] and index not in seen
                    seen[index] = label
                else:
                    assert label == 0
    assert sorted(seen) == list(range(limit or 11))


def test_validation_images_have_the_colours_of_their_labels(sharded):
    for images, labels, _ in sharded[0].validation_batches(11).as_numpy_iterator():
        for image, label in zip(images, labels, strict=True):
            colour = np.random.Generator(np.random.Philox(key=int(label))).integers(40, 216, 3)
            assert np.abs(image.mean(axis=(0, 1)) - colour).max() < 6


def test_parts_of_files_equal_a_count_by_hand():
    split = collections.namedtuple("Split", "shard_lengths filepaths num_examples")
    split = split([3, 4, 2], ["a", "b", "c"], 9)
    for start, count, expected in (
        (0, 9, [("a", 0, 3), ("b", 0, 4), ("c", 0, 2)]),
        (2, 3, [("a", 2, 1), ("b", 0, 2)]),
        (8, 4, [("c", 1, 1), ("a", 0, 3)]),
        (
            5,
            20,
            [("b", 2, 2), ("c", 0, 2), *[("a", 0, 3), ("b", 0, 4), ("c", 0, 2)]]
            + [("a", 0, 3), ("b", 0, 4)],
        ),
        (4, 0, []),
    ):
        paths, skip, take = (column.numpy() for column in imagenet.file_parts(split, start, count))
        paths = [path.decode() for path in paths]
        assert list(zip(paths, skip, take, strict=True)) == expected


@pytest.fixture
def damaged(tmp_path):
    """Ten records of 36 bytes: 12 for the length, 20 of content, 4 of a checksum."""
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(10):
            writer.write(bytes([number]) * 20)
    return path


def _read(path, skip, take):
    records = imagenet.read_records(str(path), *(tf.constant(n, tf.int64) for n in (skip, take)))
    records = list(records.as_numpy_iterator())
    assert len(records) == take
    for place, (record, name) in enumerate(records, skip):
        assert name.decode() == f"record {place} of {path}"
        assert record in (b"", bytes([place]) * 20)
    return [place for place, (record, _) in enumerate(records, skip) if record]


@pytest.mark.parametrize(
    "byte, skip, take, readable",
    [
        (None, 2, 5, [2, 3, 4, 5, 6]),
        (3 * 36 + 15, 0, 10, [0, 1, 2, 4, 5, 6, 7, 8, 9]),  # what record 3 holds
        (3 * 36 + 15, 2, 5, [2, 4, 5, 6]),
        (3 * 36 + 15, 4, 3, [4, 5, 6]),
        (3 * 36, 0, 6, [0, 1, 2]),  # its length
        ("short", 5, 5, [5, 6, 7, 8]),
        ("gone", 5, 2, []),
    ],
)
def test_a_damaged_record_costs_no_other(damaged, byte, skip, take, readable):
    contents = bytearray(damaged.read_bytes())
    if byte == "gone":
        damaged.unlink()
    elif byte == "short":
        damaged.write_bytes(contents[:-3])
    elif byte is not None:
        contents[byte] ^= 1
        damaged.write_bytes(contents)
    assert _read(damaged, skip, take) == readable


def test_imagenet_with_a_damaged_record_and_a_damaged_image(tmp_path, monkeypatch, capfd):
    tfds.disable_progress_bar()
    miniature_imagenet.cut_short(monkeypatch, 3)
    sizes = {"num_train_per_class": 4, "num_classes": 2, "num_validation": 2}
    miniature_imagenet.prepare(tmp_path, **sizes)
    for split in ("train", "validation"):
        (file,) = tmp_path.glob(f"imagenet2012/*/imagenet2012-{split}.tfrecord-*")
        contents = bytearray(file.read_bytes())
        contents[200] ^= 1  # within the first record
        file.write_bytes(contents)
    dataset = data.load("imagenet2012", str(tmp_path), image_size=16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(dataset.train_batches(8, 1).take(1))
    images, labels = next(iter(dataset.train_batches(8, 1, max_bad_images=2)))
    assert images.shape == (8, 16, 16, 3) and labels.shape == (8,)
    assert len(np.unique(images, axis=0)) == 6
    error = capfd.readouterr().err
    assert "unreadable image file: n01440764_3.JPEG\n" in error
    assert "unreadable image file: record 0 of /" in error
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(dataset.validation_batches(2))
    line = data.explain(raised.value)
    assert line.startswith("unreadable image file: record 0 of /") and "validation" in line
    assert not data.is_io_error(raised.value)
    # Records of a file that is gone, as of one on a disk that fails, are not damaged.
    file.unlink()
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(dataset.validation_batches(2))
    assert data.is_io_error(raised.value)
    assert data.explain(raised.value).endswith(
        f"{file} (nothing could be read): No such file or directory"
    )
