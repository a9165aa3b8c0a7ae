"""Checks of arguments, one line each, and objects that keep the arguments of their constructor."""

import inspect
import math
import numbers
import operator
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11

_warned: set[str] = set()


def warn_once(subject: str, message: str) -> None:
    """Warns in one line, once in this process for each `subject`."""
    if subject in _warned:
        return
    _warned.add(subject)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "tfadv":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)  # at the user's own line


def forget_warnings() -> None:
    """Lets every warning of `warn_once` be shown again."""
    _warned.clear()


def warn_of_fractions(epsilon: float, step_size: float | None = None) -> None:
    """Warns once of lengths that look like fractions of the pixel range, not pixels of 255."""
    # Hardly any epsilon is meant to be below a pixel of 255, or a step size below a tenth of one.
    for name, value, below in (("epsilon", epsilon, 1.0), ("step_size", step_size or 0.0, 0.1)):
        if 0 < value < below:
            warn_once(
                name,
                f"{name} is in pixels of 255; received {value:.4g} (where other libraries take "
                f"{value:.4g} of a range from 0 to 1, give {name}={value * 255:.4g} here)",
            )


def number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """Returns `value` as a float between `low` and `high`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= value <= high:
        unit = unit and f" ({unit})"
        raise ValueError(f"{name} must be between {low} and {high}{unit}; received {value!r}")
    return float(value)


def positive(name: str, value: Any, unit: str) -> float:
    """Returns `value` as a finite float above 0."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0 ({unit}); received {value!r}")
    return float(value)


def integer(name: str, value: Any, low: int) -> int:
    """Returns `value` as an int of at least `low`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}; received {value!r}")
    return int(value)


def choice(name: str, value: Any, choices: Iterable) -> Any:
    """Returns `value`, which must be one of `choices`."""
    if value not in tuple(choices):
        known = ", ".join(repr(each) for each in choices)
        raise ValueError(f"{name} must be one of {known}; received {value!r}")
    return value


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, NumPy's included, and no boolean."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


class _Sealing(type):
    """Seals every object against assignment when its constructor returns."""

    def __call__(cls, *args, **kwargs):
        instance = super().__call__(*args, **kwargs)
        vars(instance)["_sealed"] = True
        return instance

    @property
    def __signature__(cls):
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        return inspect.Signature(parameters)


class Immutable(metaclass=_Sealing):
    """An object whose attributes cannot be assigned, since compiled graphs would not notice."""

    def __setattr__(self, name: str, value: Any) -> None:
        if "_sealed" in vars(self):
            self._refuse("assigned", name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse("deleted", name)

    def _refuse(self, action: str, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be {action}: {self._instead}")

    _instead = "it never changes; make a new one"


class Configured(Immutable):
    """An immutable object that keeps each argument of its constructor as an attribute.

    The attribute has the name of the argument. `replace` returns a changed copy.
    """

    _instead = "it never changes; use `replace`, as in attack.replace(epsilon=8), for a copy"

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as a dictionary of plain values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Self":
        """Makes the object that `get_config` described."""
        return cls(**config)

    def replace(self, **changes: Any) -> "Self":
        """Returns a copy with some arguments changed: `attack.replace(num_steps=100)`."""
        return type(self)(**{**self.get_config(), **changes})

    def __reduce__(self):
        return _from_config, (type(self), self.get_config())

    def __repr__(self) -> str:
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({config})"


def _from_config(cls, config):
    return cls.from_config(config)
