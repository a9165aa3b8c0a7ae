"""The interface of every data set: endless training batches, finite validation batches."""

import tensorflow as tf

from tfadv.data import broken, sampling
from tfadv.steps import validation_steps


class Dataset:
    """A set of images for training and one for validation.

    Attributes:
        name: The data set's name.
        num_classes: Number of classes.
        image_shape: `(height, width, channels)` of the images that come out.
        num_train: Number of training examples.
        num_validation: Number of validation examples.
        class_names: A list of `num_classes` strings, or None.
        passed_over: A `broken.Report`, of the training images that could not be read.
        reaches_any: Whether an update's images are the same for any number of workers; else an
            epoch's are.

    A subclass says where examples come from: `_train_batches` and `_validation_batches`; one that
    cannot reach examples by their index also says in which order they come, `_epoch`.
    """

    reaches_any = True

    def __init__(self, name, num_classes, image_shape, num_train, num_validation, class_names=None):
        self.name = name
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.num_train = num_train
        self.num_validation = num_validation
        self.class_names = class_names
        self.passed_over = broken.Report()

    def train_batches(
        self,
        batch_size,
        steps_per_epoch,
        rank=0,
        size=1,
        seed=0,
        first_epoch=0,
        first_step=0,
        max_bad_images=0,
    ):
        """One worker's share of the training images, endlessly.

        An epoch is `steps_per_epoch` batches. It takes `steps_per_epoch * batch_size * size`
        examples from an order of all examples that depends on (seed, epoch) alone; no example
        comes twice in it, on any worker, unless that is more than there are: then the order
        starts again. Augmentation is keyed by (seed, epoch, position). So a stream that starts at
        (first_epoch, first_step) equals, bit for bit, the rest of one that started at 0.

        Args:
            batch_size: Images per worker and step.
            steps_per_epoch: Steps that make an epoch.
            rank: This worker, from 0.
            size: Number of workers.
            seed: Integer.
            first_epoch: Epoch to start at.
            first_step: Step within that epoch to start at; what is skipped is not decoded.
            max_bad_images: How many images that cannot be read are passed over in an epoch
                (`broken.replace`); one more ends the stream with an error that names it.

        Returns:
            A `tf.data.Dataset` of (images uint8 [batch_size, height, width, channels], labels
            int32 [batch_size]), shapes static.

        Raises:
            ValueError: If a number is out of its range.
        """
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("steps_per_epoch", steps_per_epoch, 1)
        _check_at_least("first_epoch", first_epoch, 0)
        _check_at_least("max_bad_images", max_bad_images, 0)
        if not 0 <= first_step <= steps_per_epoch:
            raise ValueError(
                f"first_step must be from 0 to steps_per_epoch = {steps_per_epoch}; "
                f"received {first_step}"
            )
        _check_shard(rank, size)
        count = batch_size * steps_per_epoch

        @tf.autograph.experimental.do_not_convert
        def epoch_examples(epoch):
            examples = self._epoch(epoch, count, rank, size, seed)
            skipped = tf.where(epoch == first_epoch, first_step * batch_size, 0)
            examples = examples.skip(tf.cast(skipped, tf.int64))
            first = sampling.key(seed, epoch, sampling.AUGMENTATION, 0)
            return examples.map(
                lambda position, example: (sampling.numbered(first, position), example)
            )

        examples = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_examples)
        batches = self._train_batches(examples, batch_size)
        if len(batches.element_spec) == 3:
            batches = broken.replace(
                batches, max_bad_images, steps_per_epoch, first_epoch, first_step, self.passed_over
            )
        return _finish(batches, tf.data.INFINITE_CARDINALITY)

    def validation_batches(self, batch_size, rank=0, size=1, limit=None):
        """One worker's share of the validation images, each once.

        Args:
            batch_size: Images per worker and step.
            rank: This worker, from 0.
            size: Number of workers.
            limit: Only the first `limit` examples; None for all.

        Returns:
            A `tf.data.Dataset` of (images uint8 [batch_size, height, width, channels], labels
            int32 [batch_size], indices int64 [batch_size]), shapes static. An index is the
            example's position in the validation set, whatever the number of workers; padding is
            zeros with index -1. Every worker has `validation_steps(num, batch_size, size)` batches,
            if need be of nothing but padding, so that collective calls match.

        Raises:
            ValueError: If a number is out of its range.
        """
        _check_at_least("batch_size", batch_size, 1)
        _check_shard(rank, size)
        num_examples = self.num_validation
        if limit is not None:
            _check_at_least("limit", limit, 1)
            num_examples = min(limit, num_examples)
        batches = self._validation_batches(num_examples, batch_size, rank, size)
        return _finish(batches, validation_steps(num_examples, batch_size, size))

    def _order(self, epoch, seed):
        """The epoch's order of all examples, an int64 tensor [num_train]."""
        return sampling.permutation(self.num_train, seed, epoch)

    def _epoch(self, epoch, count, rank, size, seed):
        """One worker's examples of one epoch: a `tf.data.Dataset` of (position, example).

        Args:
            epoch: Scalar int64 tensor.
            count: Examples of this worker.
            rank: This worker.
            size: Number of workers.
            seed: Integer.

        Returns:
            `count` elements: the int64 position in the epoch's order over all workers, and here the
            example's index.
        """
        positions = tf.range(count, dtype=tf.int64) * size + rank
        indices = tf.gather(self._order(epoch, seed), positions % self.num_train)
        return tf.data.Dataset.from_tensor_slices((positions, indices))

    def _train_batches(self, examples, batch_size):
        """Batches from a `tf.data.Dataset` of (key int64 [2], example).

        They are (images, labels), or (images, labels, names) as `broken.replace` takes them.
        """
        raise NotImplementedError

    def _validation_batches(self, num_examples, batch_size, rank, size):
        """Batches (images, labels, indices) of the first `num_examples`."""
        raise NotImplementedError


def _finish(batches, cardinality):
    options = tf.data.Options()
    options.deterministic = True  # Parallel maps must not deliver in order of completion.
    batches = batches.apply(tf.data.experimental.assert_cardinality(cardinality))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_at_least(name, value, smallest):
    if value < smallest:
        raise ValueError(f"{name} must be at least {smallest}; received {value}")


def _check_shard(rank, size):
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to size - 1 = {size - 1}; received {rank}")
