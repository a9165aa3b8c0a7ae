"""The public names of the library, as editors, `help()` and documentation tools see them."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import tfadv

ROOMS = [name for name in tfadv.__all__ if hasattr(getattr(tfadv, name), "__all__")]
PUBLIC = {
    f"{room}.{name}": getattr(getattr(tfadv, room), name)
    for room in ROOMS
    for name in getattr(tfadv, room).__all__
}
PUBLIC["report_environment"] = tfadv.report_environment
PUBLIC |= {
    f"distributed.{name}": value
    for name, value in vars(tfadv.distributed).items()
    if inspect.isfunction(value)
    and value.__module__ == "tfadv.distributed"
    and not name.startswith("_")
}
# The example of a record is in the docstring of the function that returns it.
CLASSES = [
    name
    for name, value in PUBLIC.items()
    if inspect.isclass(value)
    and not dataclasses.is_dataclass(value)
    and not issubclass(value, Exception)
]


def functions():
    """Yields every public function, and every public method that tfadv itself defines."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for attribute, member in vars(value).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if inspect.isfunction(function) and (
                    attribute == "__init__" or not attribute.startswith("_")
                ):
                    yield f"{name}.{attribute}", function


# Methods that Keras calls, whose arguments are Keras's.
KERAS = re.compile(
    r"\.(on_\w+|call|build|compute_output_shape|compute_mask|get_config|from_config|add_weight)$"
)
FUNCTIONS = {
    name: function
    for name, function in functions()
    if not KERAS.search(name) and not function.__code__.co_filename.startswith("<")
}


def test_the_library_shows_its_rooms():
    assert set(tfadv.__all__) <= set(dir(tfadv))
    assert not {"importlib", "os", "sys", "startup"} & set(dir(tfadv))
    rooms = {module.name for module in pkgutil.iter_modules(tfadv.__path__) if module.ispkg}
    assert rooms - set(tfadv.__all__) == {"paper", "programs", "tables"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_its_public_names(room):
    module = importlib.import_module(f"tfadv.{room}")
    assert all(name in vars(module) for name in module.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_types_are_stated(name):
    signature = inspect.signature(FUNCTIONS[name])
    untyped = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    assert not untyped
    if not name.endswith("__init__"):
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_says_what_it_is(name):
    if callable(PUBLIC[name]):
        assert re.match(r"\S.*[.:]$", inspect.getdoc(PUBLIC[name]).splitlines()[0])


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_an_example(name):
    """`tests/test_examples.py` runs it."""
    assert "```python" in inspect.getdoc(PUBLIC[name])
