"""Numbers and times as a person reads them."""

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
