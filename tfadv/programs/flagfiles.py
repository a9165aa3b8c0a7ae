"""Flagfiles in absl's format, with paths that work from anywhere and values in quotes.

A line is a flag, `--name=value`, as on a command line without a shell. A value that begins with a
quotation mark, ' or ", must end with the same one and is what stands between them, unchanged:
`--run_dir='runs/my run'` and `--run_dir=runs/my run` are the same.
"""

import os
import pathlib
import re
from collections.abc import Callable, Sequence

# The directory that holds flags/: in a checkout its root, after an installation the package itself.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE if (_PACKAGE / "flags").is_dir() else _PACKAGE.parent
# The flagfile that a training writes into its run directory.
WRITTEN = "flags.txt"

_QUOTES = ("'", '"')
_COMMENT = re.compile(r"\s#")


def expand(arguments: Sequence[str]) -> list[str]:
    """Replaces every `--flagfile` by the flags that the file holds.

    absl reads flagfiles too, but resolves an included one from the working directory. Here an
    included file is searched for beside the file that includes it, then in the working directory,
    then where tfadv's own `flags/` is. The last value of a flag wins, so includes come first.

    Args:
        arguments: The command line.

    Returns:
        The command line without any `--flagfile`.

    Raises:
        ValueError: If a file does not exist, includes itself, or has a line that is not a flag, an
            unclosed quotation mark or a comment after a value.
    """
    return _replaced(arguments, lambda name: _read(name, pathlib.Path.cwd(), ()))


def without(arguments: Sequence[str]) -> list[str]:
    """Returns the command line without any `--flagfile`, and without what the files hold."""
    return _replaced(arguments, lambda name: [])


def quoted(value: str) -> str:
    """Returns a value as it is written in a flagfile: in quotes where it would be misread."""
    return f'"{value}"' if value.startswith(_QUOTES) or _COMMENT.search(value) else value


def _replaced(arguments: Sequence[str], read: Callable[[str], list[str]]) -> list[str]:
    expanded: list[str] = []
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
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"flagfile must be text in UTF-8; {path}: {error}") from None
    flags = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        where = f"flagfile {path}, line {number}"
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-") or line == "--":  # no flags come after "--"
            raise ValueError(f"{where}: must be a flag or a comment; received {line!r}")
        name, equals, value = line.partition("=")
        if value.startswith(_QUOTES):
            if len(value) < 2 or value[-1] != value[0]:
                raise ValueError(
                    f"{where}: a value that begins with {value[0]} must end with it; "
                    f"received {line!r}"
                )
            value = value[1:-1]
        # Older runs wrote such values without quotes, and no run writes comments after values.
        elif _COMMENT.search(line) and path.name != WRITTEN:
            raise ValueError(
                f"{where}: a comment must have a line of its own, and a value that holds ' #' must "
                f"be in quotes; received {line!r}"
            )
        if name.split()[0] in ("--flagfile", "-flagfile"):
            if not equals:
                raise ValueError(f"{where}: --flagfile needs '=' here")
            flags += _read(value, path.parent, (*including, path))
        else:
            flags.append(name + equals + value)
    return flags


def _find(name, directory):
    for base in (directory, pathlib.Path.cwd(), SHIPPED):
        # os.path's, since pathlib's raises where there is no such user.
        path = base / os.path.expanduser(name)
        if path.is_file():
            return path.resolve()
    raise ValueError(f"flagfile must be a file; received {name!r}")
