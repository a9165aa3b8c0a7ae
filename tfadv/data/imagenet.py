"""`imagenet2012` as tensorflow-datasets prepares it, streamed from its files."""

import numpy as np
import tensorflow as tf

from tfadv.data import decoding, records, sampling, tfds_directory
from tfadv.data.encoded import EncodedDataset
from tfadv.steps import validation_steps

# Encoded images a worker keeps to draw from: about 110 kB each, so half a gigabyte.
_BUFFER = 4096

# Files read in turns, and records taken at each turn.
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

    In evaluation each rank reads one range of the validation examples, in order.

    Args:
        name: The data set's name.
        builder: Of tensorflow-datasets, as of `tfds_directory.builder`.
        train_split: Name of the split for training.
        validation_split: Name of the split for validation.
        image_size: Height and width in pixels of the images that come out.
        buffer: Encoded images in the shuffle buffer.

    Raises:
        ValueError: If the files are not TFRecord files.
    """

    reaches_any = False  # a worker has a stretch of the epoch to itself

    def __init__(self, name, builder, train_split, validation_split, image_size, buffer=_BUFFER):
        import tensorflow_datasets as tfds

        info = builder.info
        if info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(
                f"{name} must be prepared as TFRecord files; {builder.data_path} holds "
                f"{info.file_format.value}"
            )
        label = info.features["label"]
        train, validation = info.splits[train_split], info.splits[validation_split]
        super().__init__(
            name,
            label.num_classes,
            (image_size, image_size, 3),
            train.num_examples,
            validation.num_examples,
            class_names=label.names,
        )
        self._train_split, self._validation_split = train, validation
        self._buffer = buffer
        features, skip = info.features, {"image": tfds.decode.SkipDecoding()}
        self._parse = lambda record: features.deserialize_example(record, decoders=skip)

    def _contents(self, example):
        record, place = example

        def parse(record):
            found = self._parse(record)
            return found["image"], found["label"], found["file_name"]

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
        files = _file_parts(self._train_split, start, count)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(tf.shape(files[0])[0]),
            sampling.key(seed, epoch, sampling.FILES, rank),
            alg="philox",
        )
        files = [tf.gather(column, order) for column in files]
        examples = tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
            records.read,
            cycle_length=_OPEN_FILES,
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if not tf.executing_eagerly():
            # `shuffle` mixes its seed with TensorFlow's global one, which other code may set. Here
            # that of the graph of this function is set, and nothing outside.
            tf.compat.v1.set_random_seed(1)
        examples = examples.shuffle(
            min(self._buffer, count),
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
        files = _file_parts(self._validation_split, first, last - first)
        examples = tf.data.Dataset.from_tensor_slices(tuple(files)).flat_map(records.read)
        examples = tf.data.Dataset.zip(tf.data.Dataset.range(first, last), examples)
        missing = validation_steps(num_examples, batch_size, size) * batch_size - (last - first)
        padding = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), (b"", b"")))
        return examples.concatenate(padding.repeat(missing))


def load(entry, data_dir, image_size, seed):
    """Opens ImageNet.

    Args:
        entry: Its entry in `tfadv.tables.datasets`.
        data_dir: Directory of the prepared files.
        image_size: Height and width in pixels of the images that come out.
        seed: Not used.

    Returns:
        An `ImageNet`.
    """
    del seed
    builder = tfds_directory.builder(entry, data_dir)
    return ImageNet(entry.name, builder, entry.train_split, entry.validation_split, image_size)


def _file_parts(split, start, count):
    """The parts of a split's files that hold a range of its examples, going round at its end.

    Args:
        split: A `tfds.core.SplitInfo`.
        start: First example, an integer or a scalar tensor below the number of examples.
        count: Number of examples, a Python integer.

    Returns:
        `[paths, skip, take]`, tensors with one element a part.
    """
    lengths = np.array(split.shard_lengths, np.int64)
    rounds = -(-count // split.num_examples) + 1  # As often as the range may meet a file.
    firsts = np.concatenate([[0], np.cumsum(np.tile(lengths, rounds))[:-1]])
    lengths = np.tile(lengths, rounds)
    paths = np.tile(np.array([str(path) for path in split.filepaths], object), rounds)
    start = tf.cast(start, tf.int64)
    skip = tf.clip_by_value(start - firsts, 0, lengths)
    take = tf.clip_by_value(start + count - firsts, 0, lengths) - skip
    return [tf.boolean_mask(column, take > 0) for column in (paths, skip, take)]
