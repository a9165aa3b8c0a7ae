"""Stops one worker of a training at a moment, until a file appears; Python runs this at its start.

tools/machines/trainings.py puts this folder into PYTHONPATH, and into TFADV_PAUSE, as JSON: the
`module` and the `function` in it, at whose `count`th call the worker with this `rank` writes the
file `reached` and waits for the file `go`. With `reached` there from the beginning it does nothing.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

PAUSE = json.loads(os.environ.get("TFADV_PAUSE", "{}"))


class Finder(importlib.abc.MetaPathFinder):
    """Changes the module once it is imported."""

    def find_spec(self, name, path, target=None):
        if name != PAUSE["module"]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def change(module):
    *owners, name = PAUSE["function"].split(".")
    owner = getattr(module, *owners) if owners else module
    function, calls = getattr(owner, name), 0

    def paused(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == PAUSE["count"]:
            print(f"pausing in {PAUSE['function']}", file=sys.stderr, flush=True)
            Path(PAUSE["reached"]).touch()
            while not Path(PAUSE["go"]).exists():
                time.sleep(0.05)
        return function(*arguments, **keywords)

    setattr(owner, name, paused)


if (
    PAUSE
    and PAUSE["rank"] in map(os.environ.get, ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK"))
    and not Path(PAUSE["reached"]).exists()
):
    sys.meta_path.insert(0, Finder())
