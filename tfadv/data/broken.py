"""Passes over training images that cannot be read: counted, named, and up to a limit."""

import sys

import tensorflow as tf

from tfadv.data.errors import UNREADABLE


def replace(batches, limit, steps_per_epoch, first_epoch, first_step, report):
    """Puts in the place of each broken image the next whole one of its batch.

    So a batch keeps its size, and what it holds depends on nothing but itself: a run that is
    resumed at any step sees what an uninterrupted one would have seen. (After the last image of a
    batch comes its first. That an image counts twice in one update, here and there, is our choice:
    the alternative, another image of the epoch, would come twice in the epoch.)

    The count begins anew with each epoch, and where a run is resumed.

    Args:
        batches: A `tf.data.Dataset` of (images, labels, names): of each image that could not be
            read the name, and of the others an empty string.
        limit: How many images may be passed over in an epoch. 0: the first is an error.
        steps_per_epoch: Batches that make an epoch.
        first_epoch, first_step: Where the batches begin.
        report: Function of (epoch, count in it up to here, list of names) that is called for each
            batch with broken images, in order and ahead of the training.

    Returns:
        A `tf.data.Dataset` of (images, labels). Reading it raises `InvalidArgumentError`, with a
        message that `errors.explain` understands, for one image more than `limit`, and for a
        batch without a whole image.
    """

    def say(epoch, count, names):
        report(epoch, count, names)
        return count  # something for the graph to wait for

    @tf.autograph.experimental.do_not_convert
    def step(state, batch):
        number, count = state
        images, labels, names = batch
        bad = tf.not_equal(names, "")
        before = tf.where(number % steps_per_epoch == 0, tf.constant(0, tf.int64), count)
        counts = before + tf.cumsum(tf.cast(bad, tf.int64))
        epoch = first_epoch + number // steps_per_epoch

        def repaired():
            over = tf.argmax(counts > limit)
            text = tf.gather(names, over)
            if limit:
                text = tf.strings.join([text, f" (more than max_bad_images={limit} in an epoch)"])
            checks = [
                tf.debugging.Assert(counts[-1] <= limit, [UNREADABLE, text]),
                tf.debugging.Assert(
                    ~tf.reduce_all(bad),
                    [UNREADABLE, tf.strings.join([names[0], " and all others of its batch"])],
                ),
            ]
            with tf.control_dependencies(checks):
                said = tf.numpy_function(
                    say, [epoch, counts[-1], tf.boolean_mask(names, bad)], tf.int64
                )
            with tf.control_dependencies([said]):
                rows = _next_whole(bad)
                return tf.gather(images, rows), tf.gather(labels, rows)

        whole = tf.cond(tf.reduce_any(bad), repaired, lambda: (images, labels))
        for result, tensor in zip(whole, (images, labels), strict=True):
            result.set_shape(tensor.shape)
        return (number + 1, counts[-1]), whole

    begin = tf.constant(first_step, tf.int64), tf.constant(0, tf.int64)
    return batches.scan(begin, step)


def _next_whole(bad):
    """Of each row of a batch the row that stands for it: itself, or the next that is not bad."""
    whole = tf.where(~bad)[:, 0]
    places = tf.searchsorted(whole, tf.range(tf.size(bad, tf.int64), dtype=tf.int64))
    return tf.gather(whole, places % tf.size(whole))


class Report:
    """Names the images that a training passed over, on stderr, and counts them.

    Attributes:
        counts: How many of each epoch, a dictionary by the epoch's number from 0.
    """

    def __init__(self):
        self.counts = {}

    def __call__(self, epoch, count, names):
        self.counts[int(epoch)] = int(count)
        for number, name in enumerate(names, int(count) - len(names) + 1):
            text = bytes(name).decode(errors="backslashreplace")
            print(
                f"passed over, number {number} in epoch {epoch + 1}: {UNREADABLE}: {text}",
                file=sys.stderr,
                flush=True,
            )
