"""The start of every program.

Importing TensorFlow takes seconds, so a program's `parse` checks the command line without it, and
its `prepare` then loads the data and the model. Every error up to there is a usage error: one line
and status 2.
"""

import functools
import importlib
import os
import re
import tempfile
from typing import NoReturn

from absl import app, flags, logging

from tfadv import launcher, startup
from tfadv.programs import exits

# Programs whose `run` returns the number of files that could not be read.
_READERS = ("predict", "report")


def main(program: str) -> NoReturn:
    """Runs a program on the command line of this process, as an absl program, and exits.

    Args:
        program: `"train"`, `"evaluate"`, `"inspect"`, `"predict"`, `"plan"` or `"report"`.
    """
    app.run(functools.partial(_run, program), flags_parser=lambda argv: _parsed(program, argv[1:]))


def run(program: str, arguments: list[str]) -> int:
    """Runs a program on a list of arguments in this process, and returns its exit status."""
    return _run(program, _parsed(program, arguments))


def _parsed(program, arguments):
    exits.show_warnings(program)
    with exits.user_errors(program):
        parsed = _module(program).parse(arguments)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # the libraries' notes would bury ours
    return parsed if isinstance(parsed, tuple) else (parsed,)


def _run(program, parsed):
    with exits.user_errors(program):
        if getattr(parsed[0], "check", False):
            if program == "train":
                launcher.report_run(parsed[1].path)
            return 0
        if program == "train":
            exits.stop_without_loss()
        if program != "report":
            _import_tensorflow()
            startup.check_keras()
        work = _module(program).prepare(*parsed)
    unread = work.run()
    return 1 if program in _READERS and unread else 0


def _module(program):
    return importlib.import_module(f"tfadv.programs.{program}")


# What TensorFlow's libraries print while they load on processors with AVX-512, whatever
# TF_CPP_MIN_LOG_LEVEL says.
_GREETING = re.compile(
    rb"(WARNING: All log messages before absl::InitializeLog|I0000 .*oneDNN custom operations are)"
)


def _import_tensorflow():
    """Imports TensorFlow, and prints what it writes to stderr without its libraries' greeting."""
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            printed.seek(0)
            for line in printed:
                if not _GREETING.match(line):
                    os.write(2, line)
