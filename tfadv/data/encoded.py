"""What data sets of encoded image files share: ImageNet's preparation around the decoder."""

import tensorflow as tf

from tfadv.data import decoding, imagenet_preprocessing
from tfadv.data.dataset import Dataset


class EncodedDataset(Dataset):
    """Images that are decoded when they are needed, prepared as `imagenet_preprocessing` says.

    A subclass gives `_contents`, which turns one of its examples into a file's bytes, and the
    examples in order. A file that cannot be decoded stops the consumer with an error that
    `errors.explain` turns into one line with the file's name; in training only where `broken` does
    not pass over it.
    """

    def _contents(self, example):
        """From an example to (arguments, read, label, name).

        `read(*arguments)` gives the file's bytes: it runs where a failure gets the name.
        """
        raise NotImplementedError

    def _validation_examples(self, num_examples, batch_size, rank, size):
        """A `tf.data.Dataset` of (index, example), padded with index -1 to whole batches."""
        raise NotImplementedError

    def _train_batches(self, examples, batch_size):
        size = self.image_shape[0]

        @tf.autograph.experimental.do_not_convert
        def prepare(key, example):
            arguments, read, label, name = self._contents(example)
            keys = tf.unstack(tf.random.split(key, 2, alg="philox"))
            crop, readable, problem = decoding.attempt(
                read, arguments, lambda contents: decoding.decode_random_crop(contents, keys[0])
            )
            image = imagenet_preprocessing.train_image(crop, size, keys[1])
            broken = tf.where(readable, "", tf.strings.join([name, problem]))
            return image, tf.cast(label, tf.int32), broken

        return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(
            batch_size, drop_remainder=True
        )

    def _validation_batches(self, num_examples, batch_size, rank, size):
        def real(example):
            arguments, read, label, name = self._contents(example)
            image = decoding.named(read, arguments, name)
            image = imagenet_preprocessing.validation_image(image, self.image_shape[0])
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
