"""Packages whose public names are imported when they are first used.

Importing TensorFlow takes seconds; a program that has to say that a flag is wrong needs none of
it, but does need the tables of names beside the modules that import it.
"""

import importlib


def attach(package, names):
    """Makes `__getattr__`, `__dir__` and `__all__` for a package.

    Args:
        package: The package's `__name__`.
        names: Dictionary, public name -> the module of the package that defines it.

    Returns:
        The three, for the package to assign.
    """

    def __getattr__(name):
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    return __getattr__, lambda: sorted(names), sorted(names)
