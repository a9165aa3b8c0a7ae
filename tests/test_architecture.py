"""Imports point strictly down, including those inside functions: the tests read the sources."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the top down. The root package registers all that is below it.
ORDER = (
    ("train", "evaluate", "inspect", "report", "predict", "plan"),
    ("programs",),
    ("paper",),
    ("settings",),
    ("__init__",),
    ("environment",),
    ("callbacks",),
    ("training",),
    ("evaluation",),
    ("inspection",),
    ("models",),
    ("attacks",),
    ("data",),
    ("layers",),
    ("keras_internals",),
    ("watchdog",),
    ("distributed",),
    ("tables",),
    (
        "arguments",
        "checkpoint_files",
        "event_files",
        "launcher",
        "results",
        "signals",
        "startup",
        "steps",
        "units",
        "whole_files",
    ),
)
RANKS = {name: -height for height, names in enumerate(ORDER) for name in names}
LEAVES = ORDER[-1]
FILES = sorted((ROOT / "tfadv").rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def literal(node):
    """Returns the text of a string, or how an f-string begins."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def imported(source, module="", package=False):
    """Yields the full name of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + package]
                base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", None))
            if name in ("import_module", "__import__"):
                yield literal(node.args[0])


@functools.cache
def imports_of(path):
    source = path.read_text(encoding="utf-8")
    return tuple(imported(source, module_name(path), path.name == "__init__.py"))


def room(name):
    """Returns the room of a module or of a name in it: `tfadv.layers.scope.enter` -> `layers`."""
    parts = name.strip(".").split(".")
    if len(parts) > 1 and f"tfadv.{parts[1]}" in MODULES:
        return parts[1]
    return "__init__"


def ours(path):
    return [name for name in imports_of(path) if name.split(".")[0] == "tfadv"]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "source,expected",
    [
        ("import a.b, c", ["a.b", "c"]),
        ("def f():\n    if x:\n        from a import b as c, d", ["a.b", "a.d"]),
        ("from . import scope", ["tfadv.layers.scope"]),
        ("from ..data import load", ["tfadv.data.load"]),
        ("importlib.import_module(f'tfadv.data.{x}')", ["tfadv.data."]),
        ("import_module('horovod')", ["horovod"]),
    ],
)
def test_the_reader_reads(source, expected):
    assert list(imported(source, "tfadv.layers.normalizations")) == expected


def test_the_reader_reads_packages():
    assert list(imported("from . import a", "tfadv.layers", package=True)) == ["tfadv.layers.a"]
    assert room("tfadv.layers.scope.enter") == room("tfadv.layers.") == "layers"
    assert room("tfadv.__version__") == room("tfadv.") == "__init__"


def test_every_file_has_its_place():
    assert {room(module_name(path)) for path in FILES} <= set(RANKS)
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_strictly_down(path):
    mine = room(module_name(path))
    for name in ours(path):
        if room(name) != mine:
            assert RANKS[room(name)] < RANKS[mine], f"{mine} must not import {name}"


def test_no_file_imports_itself_in_a_circle():
    def target(name):
        while name not in MODULES:
            name = name.rpartition(".")[0]
        return name

    # A package imports its names when they are used, so only files count.
    edges = {module_name(path): {target(name) for name in ours(path)} for path in FILES}
    packages = {module_name(path) for path in FILES if path.name == "__init__.py"}
    finished, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_, module])
        if module in finished or module in packages:
            return
        open_.append(module)
        for each in edges[module]:
            visit(each)
        finished.add(open_.pop())

    for module in edges:
        visit(module)


def test_only_distributed_imports_horovod():
    importers = {
        named(p) for p in FILES if any(n.split(".")[0] == "horovod" for n in imports_of(p))
    }
    assert importers == {"tfadv/distributed.py"}


def test_only_the_paper_imports_pandas():
    """Importing it takes half a second, and the library needs no tables."""
    importers = {p.parent.name for p in FILES if any(n.startswith("pandas") for n in imports_of(p))}
    assert importers == {"paper"}


def test_nobody_imports_the_horovod_of_keras():
    """Under Keras 3, its optimizer trains without reducing any gradients."""
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for name in imports_of(path):
            assert not name.startswith(("horovod.tensorflow.keras", "horovod.keras")), path


@pytest.mark.parametrize("path", [p for p in FILES if room(module_name(p)) == "attacks"], ids=named)
def test_attacks_know_nothing_else(path):
    assert {room(name) for name in ours(path)} <= {"attacks", "tables", *LEAVES}
    assert not any(name.split(".")[0] == "keras" for name in imports_of(path))


@pytest.mark.parametrize("path", [p for p in FILES if room(module_name(p)) == "data"], ids=named)
def test_data_know_no_models(path):
    assert {room(name) for name in ours(path)} <= {"data", "tables", *LEAVES}
    assert not any(name.split(".")[0] in ("keras", "horovod") for name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nobody_imports_keras_by_another_name(path):
    # `startup.repeat_names` goes on without it where it is not there.
    private = {"tfadv/startup.py": "tensorflow.python.framework.ops"}
    for name in set(imports_of(path)) - {private.get(named(path))}:
        assert not name.startswith(("keras.src", "tensorflow.keras", "tensorflow.python")), name


def test_only_event_files_import_tensorboard():
    """TensorBoard publishes the formats of its plugins, but not the modules that write them."""
    importers = {
        named(p) for p in FILES if any(n.split(".")[0] == "tensorboard" for n in imports_of(p))
    }
    assert importers == {"tfadv/event_files.py"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names(source):
    """Finds the private attributes that a file uses and defines.

    Returns:
        Pairs (line, name) of the private attributes that it uses, of any object: `x._name`,
        `getattr(x, "_name")` and the like, `vars(x)["_name"]`; and the set of the names that it
        defines: methods, class variables, and attributes of `self` or `cls` that it assigns.
    """
    used, own = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if of_self and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            used.append((node.lineno, node.attr))
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            if getattr(node.func, "id", None) in ("getattr", "hasattr", "setattr", "delattr"):
                used.append((node.lineno, literal(node.args[1])))
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
            if getattr(node.value.func, "id", None) == "vars":
                name = literal(node.slice)
                used.append((node.lineno, name))
                if isinstance(node.ctx, ast.Store):
                    own.add(name)
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    own.add(each.name)
                for target in getattr(each, "targets", [getattr(each, "target", None)]):
                    own.add(getattr(target, "id", ""))
    return [(line, name) for line, name in used if is_private(name)], own


# Python documents these in spite of the underscore.
DOCUMENTED = {"_fields", "_replace", "_asdict", "_exit", "_getframe", "_current_frames"}


@pytest.mark.parametrize(
    ("source", "foreign"),
    [
        ("model._layers", ["_layers"]),
        ("self._layers", ["_layers"]),  # inherited: it is not ours
        ("getattr(model, '_layers', ())", ["_layers"]),
        ("vars(model)['_layers']", ["_layers"]),
        ("super()._build(x)", ["_build"]),
        ("def f(self):\n self._mine = 1\n return other._mine", []),
        ("class A:\n _mine = 1\n def _f(self): return self._f(self._mine)", []),
        ("x.__class__, x.public", []),
    ],
)
def test_the_reader_of_private_names_reads(source, foreign):
    used, own = private_names(source)
    assert [name for _, name in used if name not in own] == foreign


OWN_NAMES = set().union(*(private_names(path.read_text(encoding="utf-8"))[1] for path in FILES))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_only_keras_internals_uses_private_attributes_of_others(path):
    """In other files, every private attribute is one that a class of ours defines."""
    if named(path) != "tfadv/keras_internals.py":
        used, _ = private_names(path.read_text(encoding="utf-8"))
        for line, name in used:
            assert name in OWN_NAMES | DOCUMENTED, f"{named(path)}:{line}: {name}"


def test_no_name_of_ours_hides_a_private_use_of_keras():
    """The test above would not see a private name of Keras that is also one of ours."""
    used, _ = private_names((ROOT / "tfadv/keras_internals.py").read_text(encoding="utf-8"))
    assert not {name for _, name in used} & OWN_NAMES


@pytest.mark.parametrize("path", FILES, ids=named)
def test_only_programs_read_flags(path):
    if room(module_name(path)) != "programs":
        assert not any(name.split(".")[0] == "absl" for name in imports_of(path))
