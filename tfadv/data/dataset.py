"""What every data set offers: endless training batches and finite validation batches."""

import tensorflow as tf

from tfadv import arguments
from tfadv.data import sampling
from tfadv.steps import validation_steps


class Dataset:
    """Images for training and images for validation, with labels, sharded over workers.

    A subclass provides `_train_batches` and `_validation_batches`; if it cannot reach examples by
    their index, also `_epoch`.

    Attributes:
        name: The data set's name.
        num_classes: Number of classes.
        image_shape: `(height, width, channels)` of the images that come out.
        num_train: Number of training examples.
        num_validation: Number of validation examples.
        class_names: A list of `num_classes` strings, or None.
        passed_over: A dictionary from an epoch's number to how many of its training images could
            not be read and were replaced.
        reaches_any: Whether every update's images are the same for any number of workers;
            otherwise only every epoch's are.

    Example:

    ```python
    dataset = tfadv.data.load("digits")
    for images, labels in dataset.train_batches(batch_size=32, steps_per_epoch=44).take(2):
        print(images.shape, labels.shape)
    ```
    """

    reaches_any: bool = True

    def __init__(
        self,
        name: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        num_train: int,
        num_validation: int,
        class_names: list[str] | None = None,
    ):
        self.name = name
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.num_train = num_train
        self.num_validation = num_validation
        self.class_names = class_names
        self.passed_over: dict[int, int] = {}

    def train_batches(
        self,
        batch_size: int,
        steps_per_epoch: int,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        first_epoch: int = 0,
        first_step: int = 0,
        max_bad_images: int = 0,
    ) -> tf.data.Dataset:
        """One worker's share of the training images, endlessly.

        An epoch takes `steps_per_epoch * batch_size * size` examples from an order of all examples
        that depends on (seed, epoch) alone. No example comes twice in an epoch, on any worker,
        unless the epoch takes more than there are: then the order starts again. Augmentation is
        keyed by (seed, epoch, position). So a stream that starts at (first_epoch, first_step)
        equals, bit for bit, the rest of one that started at 0.

        Args:
            batch_size: Images per worker and step.
            steps_per_epoch: Batches that make an epoch.
            rank: This worker, from 0.
            size: Number of workers.
            seed: Integer.
            first_epoch: Epoch to start at.
            first_step: Step within that epoch to start at; what is skipped is not decoded.
            max_bad_images: How many images of an epoch may be unreadable: each is named on stderr
                and replaced by the next readable image of its batch. One more ends the stream with
                an error that names it.

        Returns:
            A `tf.data.Dataset` of (images uint8 [batch_size, height, width, channels], labels
            int32 [batch_size]), shapes static.

        Raises:
            ValueError: If a number is out of its range.
        """
        arguments.integer("batch_size", batch_size, 1)
        arguments.integer("steps_per_epoch", steps_per_epoch, 1)
        arguments.integer("first_epoch", first_epoch, 0)
        arguments.integer("max_bad_images", max_bad_images, 0)
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
        batches = self._readable(batches, max_bad_images, steps_per_epoch, first_epoch, first_step)
        return _finish(batches, tf.data.INFINITE_CARDINALITY)

    def validation_batches(
        self, batch_size: int, rank: int = 0, size: int = 1, limit: int | None = None
    ) -> tf.data.Dataset:
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
            some of them all padding if need be, so that collective calls match.

        Raises:
            ValueError: If a number is out of its range.
        """
        arguments.integer("batch_size", batch_size, 1)
        _check_shard(rank, size)
        num_examples = self.num_validation
        if limit is not None:
            num_examples = min(arguments.integer("limit", limit, 1), num_examples)
        batches = self._validation_batches(num_examples, batch_size, rank, size)
        return _finish(batches, validation_steps(num_examples, batch_size, size))

    def _order(self, epoch, seed):
        """The epoch's order of all examples, an int64 tensor [num_train]."""
        return tf.random.experimental.stateless_shuffle(
            tf.range(self.num_train, dtype=tf.int64),
            sampling.key(seed, epoch, sampling.ORDER),
            alg="philox",
        )

    def _epoch(self, epoch, count, rank, size, seed):
        """One worker's `count` examples of one epoch: a `tf.data.Dataset` of (position, example).

        A position is the example's int64 place in the epoch over all workers. An example is here
        its index. `epoch` is a scalar int64 tensor.
        """
        positions = tf.range(count, dtype=tf.int64) * size + rank
        indices = tf.gather(self._order(epoch, seed), positions % self.num_train)
        return tf.data.Dataset.from_tensor_slices((positions, indices))

    def _train_batches(self, examples, batch_size):
        """Batches from a `tf.data.Dataset` of (key int64 [2], example), for `_readable`."""
        raise NotImplementedError

    def _readable(self, batches, max_bad_images, steps_per_epoch, first_epoch, first_step):
        """Batches (images, labels) without images that could not be read."""
        del max_bad_images, steps_per_epoch, first_epoch, first_step
        return batches

    def _validation_batches(self, num_examples, batch_size, rank, size):
        """Batches (images, labels, indices) of the first `num_examples`."""
        raise NotImplementedError


def _finish(batches, cardinality):
    options = tf.data.Options()
    options.deterministic = True  # Parallel maps must not deliver in order of completion.
    batches = batches.apply(tf.data.experimental.assert_cardinality(cardinality))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_shard(rank, size):
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to size - 1 = {size - 1}; received {rank}")
