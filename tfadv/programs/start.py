"""Where every program begins.

A wrong flag is answered before TensorFlow, which takes seconds, is imported: the command line is
parsed and checked by modules that need none of it, and only then the module of the program is
imported, whose `prepare` meets the data and the model. Until its work begins, every mistake is the
user's: one line and status 2.
"""

import functools
import importlib
import os
import re
import tempfile

from absl import app, flags, logging

from tfadv import launcher, startup
from tfadv.programs import command_lines, exits

# Programs whose `run` returns the number of files that it could not read.
_READING = ("predict", "report")


def main(program):
    """Runs a program on this process's command line, as an absl program; does not return.

    Args:
        program: `"train"`, `"evaluate"`, `"inspect"`, `"predict"`, `"plan"` or `"report"`.
    """
    app.run(
        functools.partial(_work, program), flags_parser=lambda argv: _checked(program, argv[1:])
    )


def run(program, arguments):
    """Runs a program on some arguments in this process, and returns its status.

    Args:
        program: As of `main`.
        arguments: List of strings.
    """
    return _work(program, _checked(program, arguments))


def _checked(program, arguments):
    exits.show_warnings(program)
    with exits.user_errors(program):
        checked = getattr(command_lines, program)(arguments)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # libraries' notes would bury ours
    return checked if isinstance(checked, tuple) else (checked,)


def _work(program, checked):
    settings = checked[0]
    with exits.user_errors(program):
        if getattr(settings, "check", False):
            if program == "train":
                launcher.report_run(checked[1].path)
            return 0
        if program == "train":
            exits.stop_without_loss()
        if program != "report":
            _import_tensorflow()
            startup.check_backend()
        module = importlib.import_module(f"tfadv.programs.{program}")
        work = module.prepare(*checked)
    unread = work.run()
    return 1 if program in _READING and unread else 0


# What TensorFlow's libraries print while they load on processors with AVX-512, whatever
# TF_CPP_MIN_LOG_LEVEL says.
_GREETING = re.compile(
    rb"(WARNING: All log messages before absl::InitializeLog|I0000 .*oneDNN custom operations are)"
)


def _import_tensorflow():
    """Imports TensorFlow, and passes on what it prints but for the greeting of its libraries."""
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
