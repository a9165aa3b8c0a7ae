"""Call context of the normalization layers: the domain, and whether to use running statistics.

`tfadv.models.call` enters a scope around the call of a model. In contrast to arguments of `call`,
it reaches layers of nested, converted and reloaded models too.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Scope:
    """Context of one call of a model.

    Args:
        domain: `"adv"`, `"clean"`, or how many of the first images are adversarial (a Python
            integer or a scalar integer tensor).
        running_statistics: Whether batch normalization uses its moving statistics in training.
        apart: Whether batch normalization takes the statistics of the two domains of a batch apart.
        seen: The `id` of every mixture that was called in this scope.
    """

    domain: str | int | tf.Tensor = "adv"
    running_statistics: bool = False
    apart: bool = False
    seen: set[int] = dataclasses.field(default_factory=set)

    def split(self, tensor: tf.Tensor | None) -> Sequence[Any]:
        """Splits a batch of both domains into its adversarial and its clean part; None into two."""
        # A slice has a gradient as large as the whole batch: with slices, a training step of a
        # mixture took twice as long as with `tf.split` (benchmarks/normalization.py).
        return (None, None) if tensor is None else tf.split(tensor, [self.domain, -1])


_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("tfadv_scope", default=None)


def current() -> Scope:
    """Returns the scope of the current call; without one, a scope of the domain `"adv"`."""
    return _current.get() or Scope()


def is_entered() -> bool:
    """Returns whether the current call has a scope."""
    return _current.get() is not None


def enter(
    domain: str | int | tf.Tensor, running_statistics: bool = False, apart: bool = False
) -> contextlib.AbstractContextManager[Scope]:
    """Creates a scope for the call of a model and enters it."""
    return use(Scope(domain, running_statistics, apart))


@contextlib.contextmanager
def use(scope: Scope) -> Iterator[Scope]:
    """Enters an existing scope, also once more for a part of a call that is recomputed."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
