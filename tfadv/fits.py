"""Whether a Keras `fit` still runs; no callback is told when an exception ends it."""

import sys
import threading


class Fit:
    """The `fit` that this object is created in; calling it returns whether that `fit` still runs.

    It may be called from any thread.
    """

    def __init__(self):
        self._thread = threading.get_ident()
        # The frame's number, because the frame itself would keep alive all that `fit` holds.
        self._frame = next((id(frame) for frame in _frames(sys._getframe()) if _is_fit(frame)), 0)

    def __call__(self) -> bool:
        if not self._frame:
            return True  # created outside of any `fit` that we know, as in a test
        current = sys._current_frames().get(self._thread)
        return any(id(frame) == self._frame for frame in _frames(current))


def _frames(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_fit(frame):
    name = frame.f_globals.get("__name__", "")
    return frame.f_code.co_name == "fit" and name.partition(".")[0] == "keras"
