"""Tables 3 and 7, whose rows are runs and not comparisons."""

from tfadv.reporting import settings as meaning
from tfadv.reporting.sections import axes
from tfadv.reporting.table import Table, attack_name, cell, column_name

_ALP = "100% adv + 100% clean, ALP"


def table3(section):
    """Adversarial logit pairing under the settings of the paper's rows; None without such rows."""
    entries = [entry for entry in section.entries if "3" in entry.tables]
    if not entries:
        return None
    entries.sort(key=lambda entry: entry.tables["3"])
    # Some of its rows stand in Table 7 too, with more columns.
    columns = [c for c in section.columns if all(e.number(c).paper is not None for e in entries)]
    return _recipes(section, entries, columns)


def table3_across(sections):
    """Table 3 of runs that are not the paper's, whose rows differ in what parts sections.

    Args:
        sections: List of `Section`, of `sections.others`.

    Returns:
        A list of `Table`.
    """
    groups = []
    for section in sections:
        entries = [entry for entry in section.entries if section.label(entry) == _ALP]
        shared = {k: v for k, v in section.common.items() if k not in meaning.RECIPE}
        for key, group in groups:
            if key == (shared, section.protocol):
                group += [(section, entry) for entry in entries]
                break
        else:
            groups.append(((shared, section.protocol), [(section, entry) for entry in entries]))
    made = []
    for _, group in groups:
        if len({id(section) for section, _ in group}) > 1:
            columns = sorted({c for _, e in group for c, n in e.numbers.items() if n})
            made.append(_recipes(group[0][0], [entry for _, entry in group], columns))
    return made


def _recipes(section, entries, columns):
    rows = []
    for entry in entries:
        found = entry.settings
        labels = (
            f"{found['num_steps']}",
            meaning.network(found),
            f"{found['batch_size']}",
            f"{found['start_from_clean']:g}",
            found["optimizer"],
            f"{found['learning_rate']:g}",
            f"{found['decay']}, {found['epochs']} epochs",
        )
        rows.append((labels, [cell(entry, column) for column in columns]))
    heads = (
        *("PGD-N for training", "network", "batch", "start from clean", "optimizer"),
        *("learning rate", "decay"),
    )
    names = tuple(column_name(section, column) for column in columns)
    caption = "adversarial logit pairing under other parameters of training; accuracy (%)"
    return Table("Table 3", caption, heads, names, rows)


def table7(section):
    """Everything that runs fill, in the paper's order, and below it what the paper has not."""
    entries = [entry for entry in section.entries if entry.filled and entry.tables.keys() != {"3"}]
    columns = section.columns
    entries.sort(key=_order)
    rows = []
    for entry in entries:
        network, batch, attack = axes(entry)
        labels = (
            meaning.network(entry.settings),
            f"{batch}",
            attack_name(section, attack) if attack else "-",
            section.label(entry),
        )
        rows.append((labels, [cell(entry, column) for column in columns]))
    names = tuple(column_name(section, column) for column in columns)
    heads = ("network", "batch", "training with", "training strategy")
    return Table("Table 7", "all runs; accuracy (%)", heads, names, rows)


def _order(entry):
    """The paper's rows in its order, and others as it would have set them out."""
    settings = entry.settings
    (depth, _), batch, attack = axes(entry)
    return (
        not entry.tables,
        min(entry.tables.values(), default=0),
        depth,
        batch,
        [-each for each in attack or (0, 0)],
        (settings["norm"] != "bn", settings["norm"] != "mbn", settings["norm"]),
        entry.domain == "clean",
        -(settings["clean_ratio"] or 0),
        settings["pairing_weight"] or 0,
        settings["running_statistics"],
    )
