"""Runs a program in this process with arguments that it must refuse."""

import importlib
import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def refused(program, arguments, capsys):
    """The line with which `python -m tfadv.PROGRAM` refuses arguments, without the program's name.

    Fails if the program prints anything else, ends with another status or writes anything.
    """
    import keras

    module = importlib.import_module(f"tfadv.{program}")
    before = listing()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    policy, argv = keras.config.dtype_policy(), sys.argv
    sys.argv = [f"tfadv.{program}", *arguments]
    status = 0
    capsys.readouterr()
    try:
        module.main()
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = argv
        keras.config.set_dtype_policy(policy)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    output = capsys.readouterr()
    assert status == 2, output
    assert output.out == ""
    start = f"tfadv.{program}: "
    assert output.err.startswith(start) and output.err.index("\n") == len(output.err) - 1, output
    assert len(output.err) < 1000
    assert listing() == before, "something was written"
    return output.err[len(start) : -1]


def listing():
    """Sizes and times of everything in the working directory, by name."""
    entries = {}
    for folder, folders, files in os.walk("."):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            # A directory is read for its files; a lock may be taken and released.
            entries[folder, name] = status.st_size, status.st_mtime_ns
    return entries
