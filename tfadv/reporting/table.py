"""What a table of the paper is made of."""

import dataclasses

from tfadv.reporting.sections import axes


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of a table.

    Args:
        number: `Number`, or None.
        reference: `Number` that the paper's table states it against ("+3.0"); or None.
    """

    number: object = None
    reference: object = None


@dataclasses.dataclass
class Table:
    """A table, filled.

    Args:
        name: Such as `"Table 4"`.
        caption: What its numbers are.
        heads: Names of the columns of labels.
        columns: Names of the columns of numbers.
        rows: List of pairs: a tuple of labels, and a list of `Cell`.
    """

    name: str
    caption: str
    heads: tuple
    columns: tuple
    rows: list

    @property
    def slug(self):
        """For the name of a file: `"table4"`."""
        return self.name.lower().replace(" ", "")

    @property
    def filled(self):
        """How many cells have a number of ours."""
        return sum(bool(cell.number) for _, cells in self.rows for cell in cells)


def strongest(section, entries):
    """The `Column` with the most attack steps that all of some entries were measured with.

    PGD-2000 in the paper's setting. None if nothing was attacked.
    """
    if section.paper:
        return max(c for e in section.entries for c, n in e.numbers.items() if n.paper is not None)
    filled = [{c for c, n in e.numbers.items() if n and c.num_steps} for e in entries if e]
    filled = [columns for columns in filled if columns]
    if not filled:
        return None
    return max(set.intersection(*filled) or set.union(*filled))


def column_name(section, column):
    """`"PGD-10"`; with its step size where a section has another one for as many steps."""
    same = [each for each in section.columns if each.num_steps == column.num_steps]
    return column.name + (f", step {column.step_size:g}" if len(same) > 1 else "")


def attack_name(section, attack):
    """`"PGD-30"` for an attack in training; with its step size where there is another one."""
    among = {axes(entry)[2] for entry in section.entries} - {None}
    same = [each for each in among if each[0] == attack[0]]
    return f"PGD-{attack[0]}" + (f", step {attack[1]:g}" if len(same) > 1 else "")


def cell(entry, column, reference=None):
    if entry is None or column is None:
        return Cell()
    other = reference.numbers.get(column) if reference else None
    return Cell(entry.numbers.get(column), other)
