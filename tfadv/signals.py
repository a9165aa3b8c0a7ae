"""Notices signals while TensorFlow computes, when Python's own handlers do not run."""

import collections
import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable

_INTERVAL = 1.0  # seconds between two looks at whether a listener is still wanted


class Listener:
    """Notices the first signal in a thread, and lets the second one end the process at once.

    Python runs a handler in the main thread, between two of its own operations: not within an
    operation of TensorFlow, however long that takes. But it writes the number of a signal to a file
    descriptor as soon as the signal comes (`signal.set_wakeup_fd`), and there a thread waits for
    it. After the first signal the thread restores the default action of all of them, so that the
    next one ends the process, whatever Python or TensorFlow is doing.

    An exception may end the work without a call of `close`. The listener notices within a second
    and closes itself; a signal that comes earlier takes the way it took before.

    Args:
        numbers: The signals. Those that the process ignores, as a background job of a shell ignores
            Ctrl-C, stay ignored.
        heard: Function of the number of the first signal, called in the thread.
        handle: Handler of the first signal, as for `signal.signal`: called in the main thread as
            soon as Python can.
        lasts: Function without arguments that says, in any thread, whether the work still runs;
            None if it does until `close` is called.

    Raises:
        ValueError: Outside of the main thread.
    """

    _last: "Listener | None" = None

    def __init__(
        self,
        numbers: Iterable[int],
        heard: Callable[[int], object],
        handle: Callable,
        lasts: Callable[[], bool] | None = None,
    ) -> None:
        self._heard, self._handle = heard, handle
        self._lasts: Callable[[], bool] = lasts or (lambda: True)
        if Listener._last is not None and not Listener._last._lasts():
            Listener._last.close()
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(_INTERVAL)
        self._writer.setblocking(False)
        self._previous = {
            number: signal.signal(number, self._on_signal)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN
        }
        self._next = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()
        Listener._last = self

    def release(self) -> None:
        """Lets the next signal end the process; in the main thread."""
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)

    def close(self) -> None:
        """Ends the thread and restores the previous handlers; in the main thread."""
        if self._writer.fileno() < 0:
            return  # closed before
        for number, handler in self._previous.items():
            # Leaves a handler that somebody else has installed since.
            if signal.getsignal(number) in (self._on_signal, signal.SIG_DFL):
                signal.signal(number, handler)
        self._end()

    def leave(self) -> None:
        """Ends the thread and lets the next signal end the process; in the main thread."""
        self.release()
        self._end()

    def _end(self):
        if Listener._last is self:
            Listener._last = None
        current = signal.set_wakeup_fd(self._next)
        if current != self._writer.fileno():
            signal.set_wakeup_fd(current)
        self._writer.close()

    def _on_signal(self, number, frame):
        if self._lasts():
            self._handle(number, frame)
        else:
            self.close()
            signal.raise_signal(number)

    def _listen(self):
        first = True
        with self._reader:
            while True:
                try:
                    received = self._reader.recv(1)
                except TimeoutError:
                    if not self._lasts():
                        _waiting.append(self)
                        ctypes.pythonapi.Py_AddPendingCall(_close_waiting, None)
                    continue
                if not received:
                    return
                number = received[0]
                if number not in self._previous:
                    if self._next >= 0:
                        with contextlib.suppress(OSError):
                            os.write(self._next, received)
                elif not self._lasts():
                    continue  # `_on_signal` passes it on
                elif first:
                    first = False
                    _restore_defaults(self._previous)
                    self._heard(number)
                else:  # it came before the first one was handled here
                    os.kill(os.getpid(), number)


_waiting: collections.deque[Listener] = collections.deque()


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def _close_waiting(_):
    """Closes listeners that are no longer wanted; called by Python in the main thread."""
    while _waiting:
        _waiting.popleft().close()
    return 0


def _restore_defaults(numbers):
    # Python's `signal.signal` works in the main thread alone.
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    for number in numbers:
        set_handler(number, None)  # SIG_DFL
