"""Checks of arguments, one line each, and objects that keep their arguments and never change."""

import inspect
import math
import numbers
import operator
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Self

_warned = set()


def warn_once(subject: Any, message: str) -> None:
    """Warns, in one line, once in this process for each `subject`."""
    if subject in _warned:
        return
    _warned.add(subject)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "tfadv":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)  # at the user's own line


def forget_warnings() -> None:
    """Allows each warning once more."""
    _warned.clear()


def warn_of_fractions(epsilon: float, step_size: float) -> None:
    """Warns once of lengths that look like fractions of the range instead of pixels of 255."""
    # Few epsilons are meant to be below a pixel of 255, and few step sizes below a tenth of it.
    for name, value, usual in (("epsilon", epsilon, 1.0), ("step_size", step_size, 0.1)):
        if 0 < value < usual:
            warn_once(
                name,
                f"{name} is in pixels of 255; received {value:.4g} (where other libraries take "
                f"{value:.4g} of a range from 0 to 1, give {name}={value * 255:.4g} here)",
            )


def number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """`value` as a float between `low` and `high`."""
    if not _is_real(value) or not low <= value <= high:
        unit = unit and f" ({unit})"
        raise ValueError(f"{name} must be between {low} and {high}{unit}; received {value!r}")
    return float(value)


def positive(name: str, value: Any, unit: str) -> float:
    """`value` as a finite float above 0."""
    if not _is_real(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0 ({unit}); received {value!r}")
    return float(value)


def integer(name: str, value: Any, low: int) -> int:
    """`value` as an int of at least `low`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}; received {value!r}")
    return int(value)


def choice(name: str, value: Any, names: Iterable) -> Any:
    """`value`, one of `names`."""
    if value not in tuple(names):
        known = ", ".join(repr(each) for each in names)
        raise ValueError(f"{name} must be one of {known}; received {value!r}")
    return value


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, of NumPy's too, and not a boolean."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class _Sealing(type):
    """Closes an object against assignment at the end of its constructor."""

    def __call__(cls, *args, **kwargs):
        instance = super().__call__(*args, **kwargs)
        vars(instance)["_sealed"] = True
        return instance

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

    def _refuse(self, action, name):
        if "_sealed" in vars(self):
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be {action}: {self._instead}"
            )

    _instead = "it never changes; make a new one"


class Configured(Immutable):
    """An object that keeps each argument of its constructor in an attribute of the same name.

    It never changes: `replace` gives a changed copy.
    """

    _instead = "it never changes; use `replace`, as in attack.replace(epsilon=8), for a copy"

    def get_config(self) -> dict[str, Any]:
        """The arguments, as a dictionary of plain values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The object whose `get_config` gave `config`."""
        return cls(**config)

    def replace(self, **changes: Any) -> Self:
        """A copy with some arguments changed: `attack.replace(num_steps=100)`."""
        return type(self)(**{**self.get_config(), **changes})

    def __reduce__(self):
        return _from_config, (type(self), self.get_config())

    def __repr__(self):
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"


def _from_config(cls, config):
    return cls.from_config(config)
