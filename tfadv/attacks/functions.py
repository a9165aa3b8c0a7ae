"""Graph functions kept for as long as the model they were made from."""

import types
import weakref

import tensorflow as tf

from tfadv.attacks import checks


class FunctionCache:
    """Compiles `function(logits_fn, ...)` once per `logits_fn`, so that a second call is no trace.

    A `logits_fn` is recognized by identity (a bound method by its object and function) and held
    weakly: a model that its owner drops is freed together with the graphs made from it. A new
    lambda per call is a new trace per call, as with any `tf.function`.
    """

    def __init__(self):
        self._made = weakref.WeakKeyDictionary()

    def get(self, logits_fn, name, make):
        """What `make(reference)` gave at the first call for this `logits_fn` and `name`.

        `reference()` is the `logits_fn`; what is made must not hold it otherwise, to be freed.
        """
        if isinstance(logits_fn, types.MethodType):
            owner, key = logits_fn.__self__, (name, logits_fn.__func__)
            reference = weakref.WeakMethod
        else:
            owner, key, reference = logits_fn, (name, None), weakref.ref
        try:
            made = self._made.setdefault(owner, {})
        except TypeError:  # neither hashable nor weakly referable: nothing to hang it on
            return make(lambda: logits_fn)
        if key not in made:
            made[key] = make(reference(logits_fn))
        return made[key]

    def compiled(self, logits_fn, method):
        """`method(logits_fn, ...)` as a `tf.function` of its other arguments."""

        def make(reference):
            return tf.function(lambda *args: method(reference(), *args), autograph=False)

        return self.get(logits_fn, method.__name__, make)

    def num_classes(self, logits_fn, images):
        """The number of classes, from one trace of `logits_fn`, of which no computation is left."""

        def make(reference):
            found = []

            def trace(images):
                logits, _ = checks.logits(reference()(images), images)
                found.append(logits.shape[-1])

            spec = tf.TensorSpec(images.shape, tf.float32)
            tf.function(trace, autograph=False).get_concrete_function(spec)
            if found[-1] is None:
                raise ValueError(
                    "num_classes must be given: the shape of the logits leaves it open"
                )
            return found[-1]

        return self.get(logits_fn, "num_classes", make)
