import tensorflow as tf


class Requests:
    """What any worker may ask of all of them, who agree on it at the end of the same update.

    The requests travel in the collective operation of the adversarial step, at every step: no
    branch can skip it, and it costs nothing more. A worker asks at any time, from any thread, and
    after the first step that ends later every worker finds the same answer, whoever asked.

    Args:
        names: Strings.
    """

    def __init__(self, *names):
        self.names = names
        with tf.device("CPU:0"):  # to be set while a GPU works
            self._asked = {name: tf.Variable(0.0, trainable=False) for name in names}
            self._agreed = tf.Variable(tf.zeros([len(names)]), trainable=False)
            self._hurried = tf.Variable(False, trainable=False)

    @property
    def asked(self):
        """What this worker asks, a float tensor: what the step sends."""
        return tf.stack([variable.value() for variable in self._asked.values()])

    @property
    def hurried(self):
        """Whether the update shall be abandoned after the current part, a boolean tensor."""
        return self._hurried.value()

    def agree(self, mean):
        """Takes what all workers ask, as a mean over them: what the step receives."""
        self._agreed.assign(mean)

    def ask(self, name):
        """Asks, of the step that is being made or else of the next one."""
        with tf.init_scope():  # a signal may come while a graph is traced, and is no part of it
            self._asked[name].assign(1.0)

    def hurry(self):
        """Abandons the update that is being made, or the next one, after its current part."""
        with tf.init_scope():
            self._hurried.assign(True)

    def agreed(self, name):
        """Whether any worker asked before the last step ended; says so once."""
        agreed, place = self._agreed.numpy(), self.names.index(name)
        if not agreed[place]:
            return False
        agreed[place] = 0.0
        self._agreed.assign(agreed)
        self._asked[name].assign(0.0)
        return True
