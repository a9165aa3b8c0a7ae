"""What the model's caller tells the normalization layers inside it, apart from `training`."""

import contextlib
import contextvars
import dataclasses


@dataclasses.dataclass(frozen=True)
class Scope:
    """One call of a model, as its normalization layers see it.

    Args:
        domain: `"adv"`, `"clean"`, or how many of the first images are adversarial (a Python
            integer or a scalar integer tensor).
        running_statistics: Whether batch normalization uses its moving statistics in training.
        plain: Keras's own batch normalizations, which do not look here; with `running_statistics`
            they are called as in inference.
        seen: The `id` of every mixture that was called in this scope.
    """

    domain: object = "adv"
    running_statistics: bool = False
    plain: tuple = ()
    seen: set = dataclasses.field(default_factory=set)


_current = contextvars.ContextVar("tfadv_scope", default=None)


def current():
    """The scope of the call that is running, or the default one."""
    # Without a scope a mixture is its adv branch: the robust model is what `predict` gives.
    return _current.get() or Scope()


def is_entered():
    """Whether there is a scope around the call that is running."""
    return _current.get() is not None


def enter(domain, running_statistics=False, plain=()):
    """Puts a new scope around a model's call and yields it."""
    return use(Scope(domain, running_statistics, plain))


@contextlib.contextmanager
def use(scope):
    """Puts a scope around a model's call, or around a part of it that runs again; yields it."""
    token = _current.set(scope)
    try:
        with contextlib.ExitStack() as stack:
            if scope.running_statistics:
                for layer in scope.plain:
                    stack.enter_context(_as_in_inference(layer))
            yield scope
    finally:
        _current.reset(token)


@contextlib.contextmanager
def _as_in_inference(layer):
    """Calls a layer with `training=False`, whatever its caller says; its weights go on learning."""
    known, call = vars(layer).get("call"), layer.call
    vars(layer)["call"] = lambda *args, **kwargs: call(*args, **{**kwargs, "training": False})
    try:
        yield
    finally:
        if known is None:
            del vars(layer)["call"]
        else:
            vars(layer)["call"] = known
