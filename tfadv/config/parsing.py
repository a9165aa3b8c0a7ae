"""From a command line to checked settings, before TensorFlow is imported."""

import math
import sys
import types
import unicodedata

from absl import flags

from tfadv.config import flagfiles


def parse(program, description, table, arguments, positional=None):
    """Parses a command line by a table of flags.

    Args:
        program: Name, as in messages.
        description: One line, for `--help`.
        table: Tuple of `Flag`.
        arguments: List of strings, without the program's name.
        positional: Name of what stands without a flag, such as `"directories"`, at least one of
            them; None for a program that has flags alone.

    Returns:
        A namespace with the value of every flag, and of `positional` a tuple of strings.

    Raises:
        ValueError: For an unknown flag, a value that does not parse or breaks its rule, or an
            argument that is no flag.
    """
    values = _flag_values(table)
    try:
        rest = values([program, *flagfiles.expand(arguments)])[1:]
    except flags.Error as error:
        raise ValueError(str(error).replace("\n", " ")) from None
    if values["help"].value:
        print(f"{description}\n{values.get_help()}")
        sys.exit(0)
    if positional and not rest:
        raise ValueError(f"{positional} must be given, behind the flags; received none")
    if rest and not positional:
        raise ValueError(f"arguments must be flags (--name=value); received {rest[0]!r}")
    settings = types.SimpleNamespace(**{positional: tuple(rest)} if positional else {})
    for flag in table:
        setattr(settings, flag.name, _checked(flag, values[flag.name].value))
    return settings


def given_directly(table, arguments, name):
    """What a command line that `parse` takes says of a flag itself, and not by a flagfile.

    Args:
        table: Tuple of `Flag`.
        arguments: List of strings.
        name: The flag's name.

    Returns:
        The flag's value, or its default where only flagfiles give it, or nothing does.
    """
    values = _flag_values(table)
    values(["", *flagfiles.without(arguments)])
    return values[name].value


def flagfile(table, settings):
    """The text of a flagfile that gives `settings` again."""
    lines = []
    for flag in table:
        value = getattr(settings, flag.name)
        if value is None:
            lines.append(f"# --{flag.name} is not set")
        elif isinstance(value, bool):
            lines.append(f"--{flag.name}={str(value).lower()}")
        elif isinstance(value, tuple):
            lines.append(f"--{flag.name}={','.join(map(str, value))}")
        else:
            lines.append(f"--{flag.name}={flagfiles.quoted(str(value))}")
    return "\n".join(lines) + "\n"


def _flag_values(table):
    values = flags.FlagValues()
    for flag in table:
        _define(flag, values)
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def _define(flag, values):
    text = flag.help + (f" One of {', '.join(flag.choices)}." if flag.choices else "")
    if flag.kind is bool:
        flags.DEFINE_boolean(flag.name, flag.default, text, flag_values=values)
    elif flag.kind is int:
        flags.DEFINE_integer(flag.name, flag.default, text, flag_values=values)
    elif flag.kind is float:
        flags.DEFINE_float(flag.name, flag.default, text, flag_values=values)
    elif flag.kind is str:
        flags.DEFINE_string(flag.name, flag.default, text, flag_values=values)
    else:
        # A list flag: given twice, the last one wins, where a multi flag would collect both.
        default = None if flag.default is None else [str(value) for value in flag.default]
        flags.DEFINE_list(flag.name, default, text, flag_values=values)


def _checked(flag, value):
    if value is None or (value == "" and flag.default is None):
        return None
    if flag.kind is str:
        _check_text(flag, value)
    if isinstance(flag.kind, list):
        try:
            value = tuple(int(item) for item in value)
        except ValueError:
            raise ValueError(
                f"{flag.name} must be integers, separated by commas; received {','.join(value)!r}"
            ) from None
        if not value and flag.default is None:
            return None
    if flag.choices and value not in flag.choices:
        raise ValueError(
            f"{flag.name} must be one of {', '.join(flag.choices)}; received {value!r}"
        )
    if flag.kind in (int, float) or isinstance(flag.kind, list):
        for item in value if isinstance(value, tuple) else (value,):
            if not (flag.low <= item <= flag.high and math.isfinite(item)):
                raise ValueError(f"{flag.name} must be {_rule(flag)}; received {item}")
    return value


def _check_text(flag, value):
    # What a run's flagfile could not give again: it has one flag a line, in UTF-8.
    if (
        not value
        or value != value.strip()
        or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value)
    ):
        raise ValueError(
            f"{flag.name} must be text in one line, with no blanks around it; received {value!r}"
        )


def _rule(flag):
    unit = " (pixels of 255)" if "pixels of 255" in flag.help else ""
    if flag.high == float("inf"):
        return f"at least {flag.low}{unit}"
    return f"between {flag.low} and {flag.high}{unit}"
