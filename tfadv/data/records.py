"""Reads TFRecord files past a record that is damaged."""

import tensorflow as tf

from tfadv.data import decoding


def read(path, skip, take):
    """Some records of a file, each by itself: a damaged one costs no other.

    TensorFlow gives up a file at its first damaged record. But it skips records by their lengths
    alone, so behind such a one each record is read anew, from the beginning of the file: slow, and
    only there. Where a length is damaged, or the file ends too early, all records behind it are
    lost.

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
    # Behind `zip`, whose numbers end: a file that is not there gives its error again and again.
    streamed = tf.data.Dataset.zip(tf.data.Dataset.range(skip, end), stream).ignore_errors()
    streamed = streamed.map(lambda place, record: (place, record, True))
    # Reached only if the stream ended before its time; of what it had, nothing is read again.
    rest = tf.data.Dataset.range(skip, end).map(lambda place: (place, "", False))

    @tf.autograph.experimental.do_not_convert
    def advance(following, element):
        place = element[0]
        return tf.maximum(following, place + 1), (*element, place >= following)

    @tf.autograph.experimental.do_not_convert
    def finish(place, record, whole, fresh):
        del fresh
        record = tf.cond(whole, lambda: record, lambda: _one(path, place))
        name = ["record ", tf.strings.as_string(place), " of ", path]
        return record, tf.strings.join(name)

    elements = streamed.concatenate(rest).scan(tf.cast(skip, tf.int64), advance)
    return elements.filter(lambda *element: element[-1]).take(take).map(finish)


def _one(path, place):
    def record(path, place):
        return tf.data.TFRecordDataset(path).skip(place).take(1).get_single_element(), True

    return decoding.first_success(record, (path, place), ("", False))[0]
