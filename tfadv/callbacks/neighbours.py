import sys

import keras


def neighbours(callback):
    """All callbacks of the `fit` that calls this one, in their order.

    Keras tells a callback nothing of the others, so the list is read off the stack.

    Args:
        callback: A callback, in one of its methods.

    Returns:
        A list; the callback alone, where no `keras.callbacks.CallbackList` calls it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks)
        frame = frame.f_back
    return [callback]
