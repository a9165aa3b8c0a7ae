"""The list of cases; each theme has a module that adds its own with `@case`."""

import dataclasses
from collections.abc import Callable, Mapping

from machines.hosts import Hosts

CASES: dict[str, "Case"] = {}


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that is tried on hosts.

    Attributes:
        name: Its name, unique, as `ssh` or `fault-step`.
        title: What it tries, in words.
        run: Function of the hosts that returns one line on what was seen, or raises `Failure`.
        hosts: The names of the hosts that it needs. Cases one after the other with the same hosts
            share them, so a case leaves them as it got them.
        packages: Commands or files that it needs beyond those of hosts, and the Debian packages
            that bring them.
    """

    name: str
    title: str
    run: Callable[[Hosts], str]
    hosts: tuple[str, ...]
    packages: Mapping[str, str]


def case(name, title, hosts=("hosta", "hostb", "hostc"), packages=None):
    """Adds the decorated function to the cases."""

    def add(function):
        CASES[name] = Case(name, title, function, hosts, packages or {})
        return function

    return add
