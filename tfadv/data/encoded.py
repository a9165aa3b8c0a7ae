"""What data sets of image files share: decoding on demand, and replacing unreadable images."""

import sys

import tensorflow as tf

from tfadv.data import decoding, imagenet_preprocessing
from tfadv.data.dataset import Dataset
from tfadv.data.decoding import UNREADABLE


class EncodedDataset(Dataset):
    """Images that are decoded when they are needed and prepared by `imagenet_preprocessing`.

    A subclass provides `_contents`, which turns one of its examples into a file's bytes, and the
    examples in order. An unreadable image raises, in the code that consumes the batches, an error
    that `tfadv.data.explain` turns into one line with the file's name; in training only where
    `max_bad_images` does not let it pass.
    """

    validation_resize = "bicubic"  # `interpolation` of `validation_image`

    def _contents(self, example):
        """From an example to (arguments, read, label, name).

        `read(*arguments)` returns the file's bytes, and may fail.
        """
        raise NotImplementedError

    def _validation_examples(self, num_examples, batch_size, rank, size):
        """A `tf.data.Dataset` of (index, example), padded with index -1 to whole batches."""
        raise NotImplementedError

    def _train_batches(self, examples, batch_size):
        """Batches of (images, labels, names), the name being empty where an image was readable."""
        size = self.image_shape[0]

        @tf.autograph.experimental.do_not_convert
        def prepare(key, example):
            arguments, read, label, name = self._contents(example)
            keys = tf.unstack(tf.random.split(key, 2, alg="philox"))
            crop, readable, problem = decoding.attempt(
                read, arguments, lambda contents: decoding.decode_random_crop(contents, keys[0])
            )
            image = imagenet_preprocessing.train_image(crop, size, keys[1])
            bad = tf.where(readable, "", tf.strings.join([name, problem]))
            return image, tf.cast(label, tf.int32), bad

        return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(
            batch_size, drop_remainder=True
        )

    def _readable(self, batches, max_bad_images, steps_per_epoch, first_epoch, first_step):
        def report(epoch, count, names):
            self.passed_over[int(epoch)] = int(count)
            for number, name in enumerate(names, int(count) - len(names) + 1):
                text = bytes(name).decode(errors="backslashreplace")
                line = f"passed over, number {number} in epoch {epoch + 1}: {UNREADABLE}: {text}"
                print(line, file=sys.stderr, flush=True)
            return count  # something for the graph to wait for

        return replace_bad(
            batches, max_bad_images, steps_per_epoch, first_epoch, first_step, report
        )

    def _validation_batches(self, num_examples, batch_size, rank, size):
        def real(example):
            arguments, read, label, name = self._contents(example)
            image = decoding.named(read, arguments, name)
            image = imagenet_preprocessing.validation_image(
                image, self.image_shape[0], self.validation_resize
            )
            return image, tf.cast(label, tf.int32)

        def padding():
            return tf.zeros(self.image_shape, tf.uint8), tf.constant(0, tf.int32)

        @tf.autograph.experimental.do_not_convert
        def prepare(index, example):
            image, label = tf.cond(index >= 0, lambda: real(example), padding)
            return tf.ensure_shape(image, self.image_shape), label, index

        examples = self._validation_examples(num_examples, batch_size, rank, size)
        return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(
            batch_size, drop_remainder=True
        )


def replace_bad(batches, limit, steps_per_epoch, first_epoch, first_step, report):
    """Replaces each bad image by the next good one of its batch, the first following the last.

    So a batch keeps its size, and what it holds depends on nothing else: a resumed run sees what an
    uninterrupted one would have seen. (That an image counts twice in one update, now and then, is
    our choice: another image of the epoch would come twice in the epoch.)

    The count of bad images starts at 0 with each epoch, and where a run is resumed.

    Args:
        batches: A `tf.data.Dataset` of (images, labels, names); the names of good images are empty.
        limit: How many images of an epoch may be bad.
        steps_per_epoch: Batches that make an epoch.
        first_epoch, first_step: Where the batches begin.
        report: Function of (epoch, count in it so far, array of names) that returns the count. It
            is called for each batch with bad images, in order and ahead of the training.

    Returns:
        A `tf.data.Dataset` of (images, labels). Reading it raises an `InvalidArgumentError`, which
        `decoding.explain` understands, at one bad image more than `limit`, and at a batch without
        a good image.
    """

    @tf.autograph.experimental.do_not_convert
    def step(state, batch):
        number, count = state
        images, labels, names = batch
        bad = tf.not_equal(names, "")
        before = tf.where(number % steps_per_epoch == 0, tf.constant(0, tf.int64), count)
        counts = before + tf.cumsum(tf.cast(bad, tf.int64))
        epoch = first_epoch + number // steps_per_epoch

        def replaced():
            text = tf.gather(names, tf.argmax(counts > limit))
            if limit:
                text = tf.strings.join([text, f" (more than max_bad_images={limit} in an epoch)"])
            all_bad = tf.strings.join([names[0], " and all others of its batch"])
            checks = [
                tf.debugging.Assert(counts[-1] <= limit, [UNREADABLE, text]),
                tf.debugging.Assert(~tf.reduce_all(bad), [UNREADABLE, all_bad]),
            ]
            with tf.control_dependencies(checks):
                bad_names = tf.boolean_mask(names, bad)
                reported = tf.numpy_function(report, [epoch, counts[-1], bad_names], tf.int64)
            with tf.control_dependencies([reported]):
                good = tf.where(~bad)[:, 0]
                following = tf.searchsorted(good, tf.range(tf.size(bad, tf.int64), dtype=tf.int64))
                rows = tf.gather(good, following % tf.size(good))
                return tf.gather(images, rows), tf.gather(labels, rows)

        results = tf.cond(tf.reduce_any(bad), replaced, lambda: (images, labels))
        for result, tensor in zip(results, (images, labels), strict=True):
            result.set_shape(tensor.shape)
        return (number + 1, counts[-1]), results

    begin = tf.constant(first_step, tf.int64), tf.constant(0, tf.int64)
    return batches.scan(begin, step)
