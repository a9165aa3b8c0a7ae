"""An attack's arguments: their configuration, and their checks, one line each."""

import inspect
import math
import numbers
import operator
import sys
import warnings

_warned: set[str] = set()


def warn_once(subject, message):
    """Warns, in one line, once in this process for each `subject`."""
    if subject in _warned:
        return
    _warned.add(subject)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "tfadv":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)  # at the user's own line


def forget_warnings():
    """Lets each warning come once more."""
    _warned.clear()


def warn_of_fractions(epsilon, step_size):
    """Warns once of lengths that look like fractions of the range in place of pixels of 255."""
    # Few epsilons are meant to be below a pixel of 255, and few step sizes below a tenth of it.
    _warn_of_fraction("epsilon", epsilon, below=1.0)
    _warn_of_fraction("step_size", step_size, below=0.1)


def _warn_of_fraction(name, value, below):
    if 0 < value < below:
        warn_once(
            name,
            f"{name} is in pixels of 255; received {value:.4g} (where other libraries take "
            f"{value:.4g} of a range from 0 to 1, give {name}={value * 255:.4g} here)",
        )


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


def is_integer(value):
    """Whether a value is an integer, NumPy's included, and no boolean."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


class _Sealing(type):
    """Closes an object against assignment once its constructor is done."""

    def __call__(cls, *args, **kwargs):
        made = super().__call__(*args, **kwargs)
        vars(made)["_sealed"] = True
        return made

    @property
    def __signature__(cls):
        first, *others = inspect.signature(cls.__init__).parameters.values()
        return inspect.Signature(others)


class Immutable(metaclass=_Sealing):
    """An object whose attributes cannot be assigned, since compiled graphs would not see it."""

    def __setattr__(self, name, value):
        self._refuse("assigned", name)
        super().__setattr__(name, value)

    def __delattr__(self, name):
        self._refuse("deleted", name)
        super().__delattr__(name)

    def _refuse(self, done, name):
        if "_sealed" in vars(self):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be {done}: {self._instead}")

    _instead = "it never changes; make a new one"


class Configured(Immutable):
    """An object that keeps each argument of its constructor in an attribute of the same name.

    It never changes: `replace` gives a changed copy.
    """

    _instead = "it never changes; use `replace`, as in attack.replace(epsilon=8), for a copy"

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

    def __reduce__(self):
        return _from_config, (type(self), self.get_config())

    def __repr__(self):
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"


def _from_config(cls, config):
    return cls.from_config(config)
