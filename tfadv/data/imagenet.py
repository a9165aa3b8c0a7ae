"""`imagenet2012` as tensorflow-datasets prepares it, streamed from its TFRecord files."""

import numpy as np
import tensorflow as tf

from tfadv.arguments import choice
from tfadv.data import decoding, sampling, tfds_files
from tfadv.data.encoded import EncodedDataset
from tfadv.steps import validation_steps

# Encoded images that a worker keeps to draw from: about 110 kB each, so half a gigabyte.
_BUFFER = 4096

# How many files are read in turns, and how many records at each turn.
_OPEN_FILES = 16
_BLOCK = 4


class ImageNet(EncodedDataset):
    """ImageNet from TFRecord files, each worker reading its own range of examples.

    Ranges are of examples, not of files, so there may be more workers than files. The examples of
    the files stand in a circle. An epoch starts at a point of it that (seed, epoch) decides, and
    rank r takes the r-th stretch of the length that its epoch needs: no example comes twice unless
    the epoch needs more than there are. Within its stretch a worker reads files in turns, in an
    order drawn for the epoch, through a shuffle buffer. (tensorflow-datasets has shuffled the
    examples over the files, once, when it prepared them.)

    In an evaluation each rank reads one range of the validation examples, in order.

    Args:
        entry: The data set's entry in `tfadv.tables.datasets`.
        builder: The `DatasetBuilder` of its prepared files.
        image_size: Height and width in pixels of the images that come out.
        validation_names: Names of the files that are the validation images, such as
            `"ILSVRC2012_val_00000293.JPEG"`, with or without folders before them; None for all. To
            find them, all validation examples are read once.
        validation_resize: How validation images are resized: `"bicubic"` (pipeline), or
            `"bilinear"` with a low-pass filter, as in RobustBench.

    Raises:
        ValueError: If the files are not TFRecord files, or hold no image of a name.
    """

    reaches_any = False  # a worker has a stretch of the epoch to itself

    def __init__(
        self, entry, builder, image_size, validation_names=None, validation_resize="bicubic"
    ):
        import tensorflow_datasets as tfds

        info = builder.info
        if info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(
                f"{entry.name} must be prepared as TFRecord files; {builder.data_path} holds "
                f"{info.file_format.value}"
            )
        label = info.features["label"]
        self._train_split = info.splits[entry.train_split]
        self._validation_split = info.splits[entry.validation_split]
        super().__init__(
            entry.name,
            label.num_classes,
            (image_size, image_size, 3),
            self._train_split.num_examples,
            self._validation_split.num_examples,
            class_names=label.names,
        )
        features, skip = info.features, {"image": tfds.decode.SkipDecoding()}
        self._parse = lambda record: features.deserialize_example(record, decoders=skip)
        self.validation_resize = choice(
            "validation_resize", validation_resize, ("bicubic", "bilinear")
        )
        self._selected = None  # the places of the validation images among all, ascending
        if validation_names is not None:
            self._selected = places(self._validation_split.filepaths, validation_names)
            self.num_validation = len(self._selected)

    def _contents(self, example):
        record, place = example

        def parse(record):
            parsed = self._parse(record)
            return parsed["image"], parsed["label"], parsed["file_name"]

        # A damaged record has no name but its place.
        unknown = b"", tf.constant(0, tf.int64), place
        image, label, name = decoding.first_success(parse, (record,), unknown)
        return (image,), tf.identity, label, name

    def _epoch(self, epoch, count, rank, size, seed):
        start = tf.random.stateless_uniform(
            [],
            sampling.key(seed, epoch, sampling.ORDER),
            maxval=self.num_train,
            dtype=tf.int64,
            alg="philox",
        )
        start = (start + rank * count) % self.num_train
        parts = file_parts(self._train_split, start, count)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(tf.shape(parts[0])[0]),
            sampling.key(seed, epoch, sampling.FILES, rank),
            alg="philox",
        )
        parts = tuple(tf.gather(column, order) for column in parts)
        examples = tf.data.Dataset.from_tensor_slices(parts).interleave(
            read_records,
            cycle_length=_OPEN_FILES,
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if not tf.executing_eagerly():
            # `shuffle` mixes its seed with TensorFlow's global one, which other code may set. This
            # sets it for the graph of this function alone.
            tf.compat.v1.set_random_seed(1)
        examples = examples.shuffle(
            min(_BUFFER, count),
            seed=tf.random.stateless_uniform(
                [],
                sampling.key(seed, epoch, sampling.BUFFER, rank),
                minval=None,
                maxval=None,
                dtype=tf.int64,
                alg="philox",
            ),
            reshuffle_each_iteration=False,
        )
        # A position tells the draws of one example from those of another, over all workers.
        positions = tf.data.Dataset.range(rank * count, (rank + 1) * count)
        return tf.data.Dataset.zip(positions, examples)

    def _validation_examples(self, num_examples, batch_size, rank, size):
        first, last = (num_examples * r // size for r in (rank, rank + 1))
        if self._selected is None:
            wanted = np.arange(first, last)
        else:
            wanted = self._selected[first:last]
        start, end = (wanted[0], wanted[-1] + 1) if len(wanted) else (0, 0)
        parts = file_parts(self._validation_split, start, int(end - start))
        examples = tf.data.Dataset.from_tensor_slices(parts).flat_map(read_records)
        if len(wanted) < end - start:
            is_wanted = tf.constant(np.isin(np.arange(start, end), wanted))
            examples = examples.enumerate().filter(lambda place, _: is_wanted[place])
            examples = examples.map(lambda _, example: example)
        examples = tf.data.Dataset.zip(tf.data.Dataset.range(first, last), examples)
        missing = validation_steps(num_examples, batch_size, size) * batch_size - (last - first)
        padding = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), (b"", b"")))
        return examples.concatenate(padding.repeat(missing))


def load(entry, data_dir, image_size, seed, **options):
    """Opens ImageNet's prepared files; `options` are those of `ImageNet`."""
    del seed
    return ImageNet(entry, tfds_files.builder(entry, data_dir), image_size, **options)


def places(paths, names):
    """Finds the examples of some names among those of TFRecord files.

    Args:
        paths: List of paths.
        names: List of strings; folders before a name do not count.

    Returns:
        An ascending int64 array, the place of each name's example.

    Raises:
        ValueError: If a name comes twice, or has no example.
    """
    names = [name.replace("\\", "/").rpartition("/")[2] for name in names]
    wanted = set(names)
    if not names:
        raise ValueError("validation_names must be at least one name; received none")
    if len(wanted) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"validation_names must be different; received {twice!r} twice")
    feature = {"file_name": tf.io.FixedLenFeature([], tf.string)}
    records = tf.data.TFRecordDataset([str(path) for path in paths])
    records = records.map(
        lambda record: tf.io.parse_single_example(record, feature)["file_name"],
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    here = [name.decode() for name in records.as_numpy_iterator()]
    missing = wanted - set(here)
    if missing:
        raise ValueError(
            f"validation_names must be names of validation images; {len(missing)} of "
            f"{len(names)} are none, such as {min(missing)!r}"
        )
    return np.array([place for place, name in enumerate(here) if name in wanted], np.int64)


def file_parts(split, start, count):
    """The parts of a split's files that hold a range of its examples, going round at its end.

    Args:
        split: A `tfds.core.SplitInfo`.
        start: First example, an integer or a scalar tensor below the number of examples.
        count: Number of examples, a Python integer.

    Returns:
        `(paths, skip, take)`, tensors with one element per part.
    """
    lengths = np.array(split.shard_lengths, np.int64)
    rounds = -(-count // split.num_examples) + 1  # how often the range may meet a file
    firsts = np.concatenate([[0], np.cumsum(np.tile(lengths, rounds))[:-1]])
    lengths = np.tile(lengths, rounds)
    paths = np.tile(np.array([str(path) for path in split.filepaths], object), rounds)
    start = tf.cast(start, tf.int64)
    skip = tf.clip_by_value(start - firsts, 0, lengths)
    take = tf.clip_by_value(start + count - firsts, 0, lengths) - skip
    return tuple(tf.boolean_mask(column, take > 0) for column in (paths, skip, take))


def read_records(path, skip, take):
    """Reads some records of a TFRecord file; a damaged one costs no other.

    TensorFlow gives up a file at its first damaged record, but it skips records by their lengths
    alone. So after a damaged one each record is read by itself, from the beginning of the file:
    slow, and only there. If a length is damaged, or the file ends too early, all records after it
    are lost.

    Args:
        path: Scalar string tensor.
        skip: Scalar int64 tensor, how many records to leave out first.
        take: Scalar int64 tensor, how many to read.

    Returns:
        A `tf.data.Dataset` of `take` elements (record, name): a record's bytes, empty where it is
        lost, and a string that says which it is, such as "record 7 of <path>".
    """
    end = skip + take
    stream = tf.data.TFRecordDataset(path).skip(skip).take(take)
    # `zip` ends it: a file that is not there gives its error again and again.
    streamed = tf.data.Dataset.zip(tf.data.Dataset.range(skip, end), stream).ignore_errors()
    streamed = streamed.map(lambda place, record: (place, record, True))
    # Reached only if the stream ends early; what the stream had is not read again.
    rest = tf.data.Dataset.range(skip, end).map(lambda place: (place, "", False))

    @tf.autograph.experimental.do_not_convert
    def advance(following, element):
        place = element[0]
        return tf.maximum(following, place + 1), (*element, place >= following)

    @tf.autograph.experimental.do_not_convert
    def finish(place, record, streamed, fresh):
        del fresh
        record = tf.cond(streamed, lambda: record, lambda: _read_record(path, place))
        name = ["record ", tf.strings.as_string(place), " of ", path]
        return record, tf.strings.join(name)

    elements = streamed.concatenate(rest).scan(tf.cast(skip, tf.int64), advance)
    return elements.filter(lambda *element: element[-1]).take(take).map(finish)


def _read_record(path, place):
    def read(path, place):
        return tf.data.TFRecordDataset(path).skip(place).take(1).get_single_element(), True

    return decoding.first_success(read, (path, place), ("", False))[0]
