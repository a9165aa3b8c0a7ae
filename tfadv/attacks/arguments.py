"""An attack's arguments: their configuration, and their checks, one line each."""

import inspect
import math
import numbers


def number(name, value, low, high, unit=""):
    """`value` as a float between `low` and `high`."""
    valid = isinstance(value, numbers.Real) and not isinstance(value, bool) and low <= value <= high
    if not valid:
        unit = unit and f" ({unit})"
        raise ValueError(f"{name} must be between {low} and {high}{unit}; received {value!r}")
    return float(value)


def positive(name, value, unit=""):
    """`value` as a finite float above 0."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0 ({unit}); received {value!r}")
    return float(value)


def integer(name, value, low):
    """`value` as an int of at least `low`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}; received {value!r}")
    return int(value)


def choice(name, value, names):
    """`value`, one of `names`."""
    if value not in tuple(names):
        known = ", ".join(repr(each) for each in names)
        raise ValueError(f"{name} must be one of {known}; received {value!r}")
    return value


class Configured:
    """An object that keeps each argument of its constructor in an attribute of the same name."""

    def get_config(self):
        """The arguments, as a dictionary of plain values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config):
        """The object whose `get_config` gave `config`."""
        return cls(**config)

    def replace(self, **changes):
        """A copy with some arguments changed: `attack.replace(num_steps=100)`."""
        return type(self)(**{**self.get_config(), **changes})

    def __repr__(self):
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"
