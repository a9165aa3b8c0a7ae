"""Settings as absl flags: parsed from a command line, checked, and written to a flagfile.

absl parses; bounds and choices are checked here, since absl's messages know no units.
"""

import os
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

from absl import flags

from tfadv.programs import flagfiles
from tfadv.settings import Table


def parse(
    table: Table,
    arguments: list[str],
    positional: str | None = None,
    description: str | None = None,
) -> SimpleNamespace:
    """Parses a command line by a table of settings.

    Args:
        table: The table.
        arguments: The command line, without the program's name.
        positional: Name of the arguments that are no flags, such as `"directories"`; at least one
            must be given. None refuses them.
        description: The first line of the help. With it, `arguments` are the command line of this
            process and may hold absl's own flags; None parses flags from elsewhere.

    Returns:
        A namespace with the value of every setting, and a tuple of the positional arguments.

    Raises:
        ValueError: For an unknown flag, a value that does not parse or is out of bounds, or an
            argument that is no flag.
    """
    values = _flag_values(table)
    if description is not None:
        _add_absls_own(values, table, description)
    try:
        rest = values(["", *flagfiles.expand(arguments)])[1:]
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from None
    if positional and not rest:
        raise ValueError(f"{positional} must be given, after the flags; received none")
    if rest and not positional:
        raise ValueError(f"arguments must be flags (--name=value); received {rest[0]!r}")
    settings = SimpleNamespace(**{positional: tuple(rest)} if positional else {})
    for setting in table:
        setattr(settings, setting.name, _checked(setting, values[setting.name].value))
    return settings


def given_directly(table: Table, arguments: list[str], name: str):
    """The value of a flag on a command line without its flagfiles; the default if it has none."""
    values = _flag_values(table)
    _add_absls_own(values, table, "")
    values(["", *flagfiles.without(arguments)])
    [setting] = (setting for setting in table if setting.name == name)
    return _checked(setting, values[name].value)


def flagfile(table: Table, settings: SimpleNamespace) -> str:
    """The text of a flagfile that resolves to `settings`."""
    lines = []
    for setting in table:
        value = getattr(settings, setting.name)
        if value is None:
            lines.append(f"# --{setting.name} is not set")
        elif isinstance(value, bool):
            lines.append(f"--{setting.name}={str(value).lower()}")
        elif isinstance(value, tuple):
            lines.append(f"--{setting.name}={','.join(map(str, value))}")
        else:
            lines.append(f"--{setting.name}={flagfiles.quoted(str(value))}")
    return "\n".join(lines) + "\n"


def _flag_values(table):
    values = flags.FlagValues()
    for setting in table:
        _define(setting, values)
    return values


def _define(setting, values):
    text = setting.help
    if setting.choices:
        text += f" One of {', '.join(setting.choices)}."
    default = setting.default
    if isinstance(setting.type, list):
        # A list flag: given twice, the last one wins, where a multi flag would collect both.
        define = flags.DEFINE_list
        default = None if default is None else [str(value) for value in default]
    else:
        define = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
            Path: flags.DEFINE_string,
        }[setting.type]
    # absl's help has a heading for each module; ours has one for each group.
    define(setting.name, default, text, flag_values=values, module_name=setting.group)


class _HelpFlag(flags.BooleanFlag):
    """A flag that prints a help text and exits, whatever other flags are given."""

    def __init__(self, name, text, show, short_name=None):
        super().__init__(name, False, text, short_name=short_name)
        self._show = show

    def parse(self, argument):
        super().parse(argument)
        if self.value:
            self._show()
            sys.exit(0)


def _add_absls_own(values, table, description):
    groups = list(dict.fromkeys(setting.group for setting in table))

    def show():
        print(description, *map(values.module_help, groups), "\n--helpfull shows absl's flags too.")

    def show_all():
        print(f"{description}\n{values.get_help()}")

    helps = (
        _HelpFlag("help", "Show this help.", show, short_name="h"),
        _HelpFlag("helpshort", "Show the same as --help.", show),
        _HelpFlag("helpfull", "Show the help of absl's own flags too.", show_all),
        _HelpFlag("helpxml", "Show all of it as XML.", values.write_help_in_xml_format),
    )
    for flag in helps:
        flags.DEFINE_flag(flag, values, module_name="help")
    # The flags of absl.app, such as --pdb_post_mortem, and of absl.logging, such as --verbosity.
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if name == flag.name and name not in values:  # short names are registered with it
            values[name] = flag
            values.register_flag_by_module(flags.FLAGS.find_module_defining_flag(name), flag)
    flags.FLAGS.mark_as_parsed()


def _checked(setting, value):
    if value is None or (value == "" and setting.default is None):
        return None
    if setting.type in (str, Path):
        _check_text(setting, value)
    if setting.type is Path:
        return os.path.expanduser(value)
    if isinstance(setting.type, list):
        try:
            value = tuple(int(item) for item in value)
        except ValueError:
            raise ValueError(
                f"{setting.name} must be integers, separated by commas; "
                f"received {','.join(value)!r}"
            ) from None
        if not value and setting.default is None:
            return None
    if setting.choices and value not in setting.choices:
        raise ValueError(
            f"{setting.name} must be one of {', '.join(setting.choices)}; received {value!r}"
        )
    if setting.type in (int, float) or isinstance(setting.type, list):
        for item in value if isinstance(value, tuple) else (value,):
            if not setting.low <= item <= setting.high:
                raise ValueError(f"{setting.name} must be {_rule(setting)}; received {item}")
    return value


def _check_text(setting, value):
    # A run's flagfile, with one flag a line in UTF-8, could not hold any other text.
    if (
        not value
        or value != value.strip()
        or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value)
    ):
        raise ValueError(
            f"{setting.name} must be text in one line, with no blanks around it; received {value!r}"
        )


def _rule(setting):
    unit = " (pixels of 255)" if "pixels of 255" in setting.help else ""
    return f"between {setting.low} and {setting.high}{unit}"
