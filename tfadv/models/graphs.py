"""Functional models as graphs of nodes, and other ways to go through them."""

import contextlib

import keras


def functional(model):
    """The functional model that a layer is, or that a sequential one holds; else None."""
    part = getattr(model, "_functional", model)
    return part if isinstance(part, keras.Function) else None


def parts(model):
    """All functional models in a model, itself included, each once."""
    found = {}
    for layer in model._flatten_layers():
        part = functional(layer)
        if part is not None:
            found[id(part)] = part
    return list(found.values())


def nodes(part):
    """What a functional model calls, in order: Keras's nodes, without its inputs."""
    return [
        node
        for depth in sorted(part._nodes_by_depth, reverse=True)
        for node in part._nodes_by_depth[depth]
        if not node.is_input
    ]


def masking(model):
    """The first layer that hands others a mask, which only Keras's own way passes on; or None."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
            return layer
    return None


@contextlib.contextmanager
def through(part, run):
    """Lets a functional model, however it is called in here, be gone through by another function.

    All else that a model does with inputs, dtypes and `training` remains Keras's own. Contexts
    nest: the inner one's `run` gets the outer one's as `before`.

    Args:
        part: A functional model.
        run: Function of (`before`, inputs, operation_fn): `before(inputs, operation_fn)` is how the
            model was gone through so far; `operation_fn(operation)` is what to call for one.
    """
    known = vars(part).get("_run_through_graph")
    before = part._run_through_graph
    vars(part)["_run_through_graph"] = lambda inputs, operation_fn: run(
        before, inputs, operation_fn
    )
    try:
        yield
    finally:
        if known is None:
            del vars(part)["_run_through_graph"]
        else:
            vars(part)["_run_through_graph"] = known


@contextlib.contextmanager
def substituted(tables):
    """Calls some functions in the place of some operations, for as long as the context lasts.

    Args:
        tables: A list of pairs: a functional model, and a function of an operation in it and of
            `operation_fn` that returns what to call.
    """
    with contextlib.ExitStack() as stack:
        for part, choose in tables:

            def run(before, inputs, operation_fn, choose=choose):
                return before(inputs, lambda operation: choose(operation, operation_fn))

            stack.enter_context(through(part, run))
        yield
