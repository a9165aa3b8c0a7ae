"""Numbers and times as a person reads them, and how much time work still takes."""

import time
from collections.abc import Callable

# The least number of seconds that is said in a unit, the unit's name and its seconds.
_UNITS = (
    (3600, "hours", 3600),
    (60, "minutes", 60),
    (1, "seconds", 1),
    (1e-3, "milliseconds", 1e-3),
    (0, "microseconds", 1e-6),
)
_DAYS = (360_000, "days", 86_400)  # 100 hours are said as hours, as those of the paper are


def duration(seconds, of=""):
    """A time in a unit in which a person reads it, to four digits: "1.534 minutes".

    Args:
        seconds: Number.
        of: What goes before the unit: the time of devices, `"device-"`, is not said in days.

    Returns:
        A string.
    """
    if not seconds:
        return f"0 {of}seconds"
    units = _UNITS if of else (_DAYS, *_UNITS)
    _, name, length = next(unit for unit in units if seconds >= unit[0])
    text = rounded(seconds / length)
    return f"{text} {of}{name.removesuffix('s') if text == '1' else name}"


def rounded(number):
    """A number to four digits, without an exponent where it is large: "5,794,000"."""
    return f"{float(f'{number:.4g}'):,.0f}" if number >= 1000 else f"{number:.4g}"


def in_words(seconds: float) -> str:
    """A time to the second or, where it takes hours, to the minute: "5 min 20 s", "2 h 5 min"."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def short(seconds: float) -> str:
    """A time in one unit and at most six characters, for a table: "20 s", "5 min", "2.1 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 99.95 else f"{hours:.0f} h"


def count(number: int, noun: str) -> str:
    """A number of things: "1 worker", "4,096 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class TimeLeft:
    """Estimates the time left of work in equal parts, from those that are done.

    The first part does not count, because it includes the compilation of graphs: the clock starts
    with `begin`, after it.

    Args:
        clock: Function that returns seconds.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self._first: tuple[float, float] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was called."""
        return self._first is not None

    def begin(self, done: float) -> None:
        """Starts the clock, when this much is done."""
        self._first = done, self._clock()

    def __call__(self, done: float, total: float) -> float | None:
        """Returns the seconds left; None where nothing is left or nothing was measured."""
        if self._first is None or not self._first[0] < done < total:
            return None
        first, began = self._first
        return (self._clock() - began) / (done - first) * (total - done)
