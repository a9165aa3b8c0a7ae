"""Flagfiles, absl's format, with paths that work from anywhere and values that may stand in quotes.

A line is a flag, `--name=value`, as it stands on a command line without a shell, but for one rule:
a value that begins with a quotation mark, ' or ", must end with the same one and means what stands
between them, unchanged. So `--run_dir='runs/my run'` and `--run_dir=runs/my run` are the same.
"""

import os
import pathlib

# The directory that holds flags/: in a checkout its root, after an installation the package itself.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE if (_PACKAGE / "flags").is_dir() else _PACKAGE.parent

_QUOTES = ("'", '"')


def expand(arguments):
    """Puts the flags of every `--flagfile` in its place.

    absl reads flagfiles too, but resolves an included one from the working directory. Here an
    include is looked for beside the file that includes it, then from the working directory, then
    where tfadv's own `flags/` is. The last value of a flag wins, so a file's includes come first.

    Args:
        arguments: List of strings, of the command line.

    Returns:
        List of strings without any `--flagfile`.

    Raises:
        ValueError: If a file does not exist, includes itself, or holds something that is no flag or
            a quotation mark that is not closed.
    """
    return _replaced(arguments, lambda name: _read(name, pathlib.Path.cwd(), ()))


def quoted(value):
    """A string as the value of a flag in a flagfile: in quotes if it begins with one itself."""
    return f'"{value}"' if value.startswith(_QUOTES) else value


def without(arguments):
    """The arguments of a command line that are not `--flagfile`."""
    return _replaced(arguments, lambda name: [])


def _replaced(arguments, read):
    expanded = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*expanded, argument, *rest]
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            expanded.append(argument)
            continue
        expanded += read(value if equals else next(rest, ""))
    return expanded


def _read(name, directory, including):
    path = _find(name, directory)
    if path in including:
        raise ValueError(f"flagfile must not include itself; received {path}")
    flags = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"flagfile must be text in UTF-8; {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-") or line == "--":  # behind which come no flags
            raise ValueError(
                f"flagfile {path}, line {number}: must be a flag or a comment; received {line!r}"
            )
        name, equals, value = line.partition("=")
        if value.startswith(_QUOTES):
            if len(value) < 2 or value[-1] != value[0]:
                raise ValueError(
                    f"flagfile {path}, line {number}: a value that begins with {value[0]} must end "
                    f"with it; received {line!r}"
                )
            value = value[1:-1]
        if name.split()[0] in ("--flagfile", "-flagfile"):
            if not equals:
                raise ValueError(f"flagfile {path}, line {number}: --flagfile needs '=' here")
            flags += _read(value, path.parent, (*including, path))
        else:
            flags.append(name + equals + value)
    return flags


def _find(name, directory):
    for base in (directory, pathlib.Path.cwd(), SHIPPED):
        # The one of `os`: that of `pathlib` raises where there is no such user.
        path = base / os.path.expanduser(name)
        if path.is_file():
            return path.resolve()
    raise ValueError(f"flagfile must be a file; received {name!r}")
