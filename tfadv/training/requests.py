import tensorflow as tf


class Requests:
    """What any worker may ask of all of them, who agree on it at the end of the same update.

    The requests travel in the collective operation of the adversarial step, at every step: no
    branch can skip it, and it costs nothing more. A worker asks between two steps, and after the
    next one every worker finds the same answer, whoever asked.

    Args:
        names: Strings.
    """

    def __init__(self, *names):
        self.names = names
        self._asked = tf.Variable(tf.zeros([len(names)]), trainable=False)
        self._agreed = tf.Variable(tf.zeros([len(names)]), trainable=False)

    @property
    def asked(self):
        """What this worker asks, a float tensor: what the step sends."""
        return self._asked.value()

    def agree(self, mean):
        """Takes what all workers ask, as a mean over them: what the step receives."""
        self._agreed.assign(mean)

    def ask(self, name):
        """Asks, of the next step."""
        self._set(self._asked, name, 1.0)

    def agreed(self, name):
        """Whether any worker asked before the last step; says so once."""
        if not self._agreed.numpy()[self.names.index(name)]:
            return False
        self._set(self._asked, name, 0.0)
        self._set(self._agreed, name, 0.0)
        return True

    def _set(self, variable, name, value):
        values = variable.numpy()
        values[self.names.index(name)] = value
        variable.assign(values)
