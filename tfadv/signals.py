"""Notices signals while TensorFlow computes, when Python's own handlers do not run."""

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable


class Listener:
    """Notices the first signal in a thread, and lets the second one end the process at once.

    Python runs a handler in the main thread, between two operations of its own: never within an
    operation of TensorFlow's, however long that takes. But it writes the number of a signal to a
    file descriptor as the signal comes (`signal.set_wakeup_fd`), where a thread waits for it. After
    the first signal the thread gives all of them back to the operating system, so that the next
    one ends the process as if it had no handler, whatever Python or TensorFlow is doing.

    Args:
        numbers: The signals' numbers. Signals that the process ignores, as a shell's background job
            ignores Ctrl-C, stay ignored.
        heard: Function of the number of the first signal, called in the thread.
        handle: Handler of the first signal, as for `signal.signal`, called in the main thread when
            Python comes to it.

    Raises:
        ValueError: Outside of the main thread.
    """

    def __init__(self, numbers: Iterable[int], heard: Callable, handle: Callable):
        self._heard = heard
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = {
            number: signal.signal(number, handle)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN
        }
        self._next = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()

    def release(self) -> None:
        """Lets the next signal end the process; in the main thread."""
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)

    def close(self) -> None:
        """Ends the thread and puts back the previous handlers; in the main thread."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._end()

    def leave(self) -> None:
        """Ends the thread and lets the next signal end the process; in the main thread."""
        self.release()
        self._end()

    def _end(self):
        signal.set_wakeup_fd(self._next)
        self._writer.close()

    def _listen(self):
        first = True
        with self._reader:
            while received := self._reader.recv(1):
                number = received[0]
                if number not in self._previous:
                    if self._next >= 0:
                        with contextlib.suppress(OSError):
                            os.write(self._next, received)
                elif first:
                    first = False
                    _restore_defaults(self._previous)
                    self._heard(number)
                else:  # it came before the first one was handled here
                    os.kill(os.getpid(), number)


def _restore_defaults(numbers):
    # Python's `signal.signal` works in the main thread alone.
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    for number in numbers:
        set_handler(number, None)  # SIG_DFL
