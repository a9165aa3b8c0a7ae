"""The paper's tables: which strategies and axes their cells stand for."""

from tfadv.reporting.listings import table3, table7
from tfadv.reporting.runs import CLEAN
from tfadv.reporting.sections import axes
from tfadv.reporting.table import Table, attack_name, cell, column_name, strongest

_BN = "100% adv + 100% clean"
_BN_ALP = f"{_BN}, ALP"
_ADV = "100% adv + 0% clean"
_MBN, _MBN_ALP = f"MBN_adv, {_BN}", f"MBN_adv, {_BN}, ALP"


def tables(section):
    """The paper's tables as far as a section fills them.

    In the paper's own setting a table has all of the paper's rows, and one cell of ours at least.
    Elsewhere it has only the rows that runs fill, at least two cells, and "PGD-2000" is the largest
    number of steps that these were all attacked with.

    Args:
        section: `Section`.

    Returns:
        A list of `Table`.
    """
    made = [make(section) for make in (_table1, _table2, table3, _table4, _table5, _table6)]
    if not section.paper:
        for table in filter(None, made):
            table.rows = [row for row in table.rows if any(each.number for each in row[1])]
    least = 1 if section.paper else 2
    return [table for table in made if table and table.filled >= least] + [table7(section)]


def _table1(section):
    """Two halves: clean images through one branch, the strongest attack through the other."""
    rows = []
    for labels, column in (
        (["0% adv + 100% clean", f"MBN_clean, {_BN}", f"MBN_clean, {_BN_ALP}"], CLEAN),
        ([_ADV, _MBN, _MBN_ALP], None),
    ):
        found = [section.find(label) for label in labels]
        column = column or strongest(section, found)
        what = column_name(section, column) if column else "attack"
        for label, entry in zip(labels, found, strict=True):
            reference = None if entry is found[0] else found[0]
            rows.append(((what, label), [cell(entry, column, reference)]))
    return Table(
        "Table 1",
        "each branch of a mixture beside a network trained for its domain alone; accuracy (%)",
        ("images", "training strategy"),
        ("accuracy",),
        rows,
    )


def _table2(section):
    pairs = [(section.find(label), section.find(label + "*")) for label in (_ADV, _MBN, _MBN_ALP)]
    column = strongest(section, [entry for pair in pairs for entry in pair])
    if column is None:
        return None
    rows = []
    for label, (plain, star) in zip((_ADV, _MBN, _MBN_ALP), pairs, strict=True):
        rows.append(((label,), [cell(plain, column)]))
        rows.append(((label + "*",), [cell(star, column, plain)]))
    name = column_name(section, column)
    caption = f"running statistics in the last epochs (*); accuracy against {name} (%)"
    return Table("Table 2", caption, ("training strategy",), (name,), rows)


def _table4(section):
    attacks = _attacks(section)
    labels = (_ADV, _BN, _BN_ALP, _MBN, _MBN_ALP)
    if not attacks:
        return None
    found = {(a, label): section.find(label, attack=a) for a in attacks for label in labels}
    column = strongest(section, list(found.values()))
    if column is None or len(attacks) < 2 and not section.paper:
        return None
    # The paper states all other attacks against PGD-30, the base.
    base = section.base[2]
    rows = []
    for each in sorted(attacks, reverse=True):
        cells = []
        for label in labels:
            reference = None if each == base else found.get((base, label))
            cells.append(cell(found[each, label], column, reference))
        rows.append(((attack_name(section, each),), cells))
    caption = f"attacks in training; accuracy against {column_name(section, column)} (%)"
    return Table("Table 4", caption, ("training with",), labels, rows)


def _table5(section):
    attacks = _attacks(section)
    if not attacks:
        return None
    labels = (_ADV, _MBN, _MBN_ALP)
    found = {
        (star, label, a): section.find(label + star, attack=a)
        for label in labels
        for star in ("", "*")
        for a in attacks
    }
    column = strongest(section, list(found.values()))
    if column is None or not any(star and entry for (star, *_), entry in found.items()):
        return None
    rows = []
    for label in labels:
        for star in ("", "*"):
            cells = [
                cell(found[star, label, a], column, found["", label, a] if star else None)
                for a in attacks
            ]
            rows.append(((label + star,), cells))
    caption = f"running statistics (*) by attack in training; {column_name(section, column)} (%)"
    names = tuple(attack_name(section, each) for each in attacks)
    return Table("Table 5", caption, ("training strategy",), names, rows)


def _table6(section):
    label, base = _ADV + "*", section.base[1]
    batches = sorted({axes(e)[1] for e in section.entries}, key=lambda b: (b != base, b))
    found = {batch: section.find(label, batch=batch) for batch in batches}
    found = {batch: entry for batch, entry in found.items() if entry}
    column = strongest(section, list(found.values()))
    if column is None:
        return None
    rows = [
        ((f"{batch}",), [cell(entry, column, None if batch == base else found.get(base))])
        for batch, entry in found.items()
    ]
    name = column_name(section, column)
    caption = f"batch size, {label}; accuracy against {name} (%)"
    return Table("Table 6", caption, ("training batch size",), (name,), rows)


def _attacks(section):
    """The attacks in training that the base's network and batch were trained with, ascending."""
    network, batch, _ = section.base
    found = {axes(entry) for entry in section.entries}
    return sorted({at[2] for at in found if at[:2] == (network, batch) and at[2]})
