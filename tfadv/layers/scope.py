"""Call context of the normalization layers: what a model's caller tells them beside `training`."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Scope:
    """One call of a model, as its normalization layers see it.

    Args:
        domain: `"adv"`, `"clean"`, or how many of the first images are adversarial (a Python
            integer or a scalar integer tensor).
        running_statistics: Whether batch normalization uses its moving statistics in training.
        seen: The `id` of every mixture that was called in this scope.
    """

    domain: Any = "adv"
    running_statistics: bool = False
    seen: set[int] = dataclasses.field(default_factory=set)


_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("tfadv_scope", default=None)


def current() -> Scope:
    """Returns the scope of the call that is running, or the default one."""
    # Without a scope a mixture is its adv branch: the robust model is what `predict` gives.
    return _current.get() or Scope()


def is_entered() -> bool:
    """Returns whether there is a scope around the call that is running."""
    return _current.get() is not None


def enter(
    domain: Any, running_statistics: bool = False
) -> contextlib.AbstractContextManager[Scope]:
    """Puts a new scope around a model's call and yields it."""
    return use(Scope(domain, running_statistics))


@contextlib.contextmanager
def use(scope: Scope) -> Iterator[Scope]:
    """Puts a scope around a model's call, or around a part of it that runs again; yields it."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
