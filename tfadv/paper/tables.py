"""The paper's tables: which trainings and attacks their cells stand for, as CSV and Markdown."""

import dataclasses
import math

import numpy as np
import pandas as pd

from tfadv.paper.results import ATTACK, COLUMN, DATA
from tfadv.paper.sections import NO_ATTACK, Section, attack_names
from tfadv.tables import attacks

BN = "100% adv + 100% clean"
APART = f"{BN}, apart"
ALP = f"{BN}, ALP"
ADV = "100% adv + 0% clean"
CLEAN = "0% adv + 100% clean"
MBN, MBN_ALP = f"MBN_adv, {BN}", f"MBN_adv, {ALP}"
# Strategies with running statistics in the last epochs, and those that they are compared with.
_STARRED = {f"{strategy}*": strategy for strategy in (ADV, MBN, MBN_ALP)}
_RUNNING = {s: {"strategy": s} for pair in _STARRED.items() for s in reversed(pair)}

_NUMBERS = [
    *("ours", "low", "high", "spread", "n", "change"),
    *("paper", "paper_change", "difference", "difference_low", "difference_high", "runs"),
]


def sharing(percent: float, apart: bool = False) -> str:
    """The strategy that keeps a share of the clean images, in one call or apart.

    Without clean images there is only one domain, and nothing to keep apart.
    """
    return f"100% adv + {percent:g}% clean" + (", apart" if apart and percent else "")


@dataclasses.dataclass
class Table:
    """A table of the paper, filled.

    Args:
        name: Such as `"Table 4"`.
        caption: What its numbers are.
        heads: Names of the columns of labels.
        columns: Names of the columns of numbers.
        cells: DataFrame, a row for each cell, row by row of the table: its labels, the name of
            its column (`measured`), and its numbers. `change` and `paper_change` are changes
            against the cell of another row, which the paper prints as +3.0.
    """

    name: str
    caption: str
    heads: list[str]
    columns: list[str]
    cells: pd.DataFrame

    def csv(self) -> str:
        """The cells as CSV, a line each."""
        return csv(self.cells.astype({"n": "Int64"})[[*self.heads, "measured", *_NUMBERS]])

    def markdown(self, paper: bool) -> str:
        """The table in Markdown.

        Args:
            paper: Whether to show the paper's numbers beside ours: in columns if the table has a
                single one, else in lines.
        """
        cells, columns = self.cells.to_dict("records"), self.columns
        labels = self.cells[self.heads].values.tolist()[:: len(columns)]
        texts_of = {"ours": _ours, "paper": _papers, "difference": _difference}
        texts = {
            name: np.reshape([text(cell) for cell in cells], (-1, len(columns))).tolist()
            for name, text in texts_of.items()
            if paper or name == "ours"
        }
        if paper and len(columns) > 1:
            rows = [
                [*(label if name == "ours" else [""] * len(label)), name, *lines[row]]
                for row, label in enumerate(labels)
                for name, lines in texts.items()
                # The paper does not have every row.
                if name == "ours" or set(texts["paper"][row]) != {"-"}
            ]
            return markdown([*self.heads, "", *columns], rows, len(self.heads) + 1)
        rows = [sum(row, []) for row in zip(labels, *texts.values(), strict=True)]
        return markdown([*self.heads, *(texts if paper else columns)], rows, len(self.heads))


def tables(section: Section) -> list[Table]:
    """The paper's tables as far as a section fills them.

    In the paper's own setting a table has all of the paper's rows, and at least one cell of ours.
    Elsewhere it has only the rows that runs fill, at least two cells, and "PGD-2000" is the largest
    number of steps that these were all attacked with.
    """
    layouts = (_table1, _table2, _table3, _table4, _table5, _table6)
    tables = [table for table in (layout(section) for layout in layouts) if table]
    for table in () if section.paper else tables:
        width = len(table.columns)
        filled = np.reshape(table.cells["n"] > 0, (-1, width)).any(axis=1)
        table.cells = table.cells[filled.repeat(width)]
    least = 1 if section.paper else 2
    return [t for t in tables if (t.cells["n"] > 0).sum() >= least] + [_table7(section)]


def table3_across(sections: list[Section]) -> list[Table]:
    """Table 3 of runs outside the paper's setting: its rows lie in different sections."""
    groups: dict = {}
    for section in sections:
        entries = section.entries[section.entries["strategy"] == ALP]
        if len(entries):
            key = tuple(section.setting[["beside_recipe", *DATA, *ATTACK]])
            groups.setdefault(key, []).append((section, entries))
    tables = []
    for parts in groups.values():
        if len(parts) > 1:
            filled = [s.numbers.loc[entries.index].query("n > 0") for s, entries in parts]
            tables.append(_recipes(parts, set(pd.concat(filled).index.droplevel("entry"))))
    return tables


def _table(section, name, caption, heads, columns, rows):
    """A table of rows `(labels, [((num_steps, step_size), entry), ...])`."""
    return Table(name, caption, heads, columns, _cells(section, heads, columns, rows))


def _cells(section, heads, columns, rows):
    """The cells of rows with their numbers, NaN where an entry or its number is missing."""
    keys = [*COLUMN, "entry"]
    cells = pd.DataFrame(
        [
            (*labels, name, *(at or (None, None)), entry)
            for labels, cells in rows
            for name, (at, entry) in zip(columns, cells, strict=True)
        ],
        columns=[*heads, "measured", *keys],
    ).astype(dict.fromkeys(keys, float))
    cells = cells.join(section.numbers, on=["entry", *COLUMN])
    return cells.assign(change=np.nan, paper_change=np.nan)


def _stated(table, against):
    """Adds to a table the changes of its rows against other rows, by their last labels."""
    cells = table.cells.set_index([table.heads[-1], "measured"])
    others = cells.reindex([(against.get(row), measured) for row, measured in cells.index])
    table.cells["change"] = (cells["ours"] - others["ours"].values).values
    table.cells["paper_change"] = (cells["paper"] - others["paper"].values).values
    return table


def _grid(section, name, caption, head, rows, columns, against):
    """A table against the strongest attack that all of its entries were measured with.

    `rows` and `columns` map a label to arguments of `Section.find`.
    """
    entries = {row: [section.find(**rows[row], **columns[c]) for c in columns] for row in rows}
    at = section.strongest([entry for row in entries.values() for entry in row])
    if at is None:
        return None
    attack = section.columns[at]
    cells = [((row,), [(at, entry) for entry in entries[row]]) for row in rows]
    names = [column or attack for column in columns]
    return _stated(_table(section, name, caption.format(attack), [head], names, cells), against)


def _table1(section):
    """Two halves: clean images through one branch, the strongest attack through the other."""
    clean, adv = (CLEAN, f"MBN_clean, {BN}", f"MBN_clean, {ALP}"), (ADV, MBN, MBN_ALP)
    rows = []
    for strategies, at in ((clean, NO_ATTACK), (adv, None)):
        entries = [section.find(strategy) for strategy in strategies]
        at = at or section.strongest(entries)
        for strategy, entry in zip(strategies, entries, strict=True):
            rows.append(((section.columns.get(at), strategy), [(at, entry)]))
    caption = "each branch of a mixture beside a network trained for its domain alone; accuracy (%)"
    heads = ["images", "training strategy"]
    table = _table(section, "Table 1", caption, heads, ["accuracy"], rows)
    return _stated(table, dict.fromkeys(clean[1:], CLEAN) | dict.fromkeys(adv[1:], ADV))


def _table2(section):
    if not section.paper and all(section.find(strategy) is None for strategy in _STARRED):
        return None
    caption = "running statistics in the last epochs (*); accuracy against {} (%)"
    return _grid(section, "Table 2", caption, "training strategy", _RUNNING, {None: {}}, _STARRED)


def _table3(section):
    """Adversarial logit pairing under the settings of the paper's rows; None without such rows."""
    entries = section.entries.dropna(subset="place_in_table_3").sort_values("place_in_table_3")
    if entries.empty:
        return None
    # Some of its rows stand in Table 7 too, with more columns.
    count = section.numbers["paper"].loc[entries.index].groupby(COLUMN).count()
    return _recipes([(section, entries)], count.index[count == len(entries)])


def _recipes(parts, columns):
    """Table 3 from pairs of a section and some of its entries."""
    label = attacks.label(parts[0][1]["attack"].iloc[0])
    heads = [
        *(f"{label}-N for training", "network", "batch", "start from clean", "optimizer"),
        *("learning rate", "decay"),
    ]
    measured = {at: name for section, _ in parts for at, name in section.measured.items()}
    names = attack_names({at: measured[at] for at in columns})
    frames = []
    for section, entries in parts:
        rows = []
        for entry in entries.itertuples():
            labels = (
                *(f"{entry.num_steps}", entry.called, f"{entry.batch_size}"),
                *(f"{entry.start_from_clean:g}", entry.optimizer, f"{entry.learning_rate:g}"),
                f"{entry.decay}, {entry.epochs} epochs",
            )
            rows.append((labels, [(at, entry.Index) for at in names]))
        frames.append(_cells(section, heads, names.values(), rows))
    caption = "adversarial logit pairing under other parameters of training; accuracy (%)"
    return Table("Table 3", caption, heads, list(names.values()), pd.concat(frames))


def _table4(section):
    attacks, base = _attacks(section), section.attacks[section.base["attack_steps"]]
    if len(attacks) < 2 and not section.paper:
        return None
    rows = {name: attacks[name] for name in reversed(attacks)}
    columns = {strategy: {"strategy": strategy} for strategy in (ADV, BN, ALP, MBN, MBN_ALP)}
    # The paper compares all other attacks with PGD-30, the base.
    against = {name: base for name in rows if name != base}
    caption = "attacks in training; accuracy against {} (%)"
    return _grid(section, "Table 4", caption, "training with", rows, columns, against)


def _table5(section):
    columns = _attacks(section)
    if all(section.find(s, **at) is None for s in _STARRED for at in columns.values()):
        return None
    caption = "running statistics (*) by attack in training; {} (%)"
    return _grid(section, "Table 5", caption, "training strategy", _RUNNING, columns, _STARRED)


def _table6(section):
    strategy, base = f"{ADV}*", section.base["batch_size"]
    batches = sorted(section.entries["batch_size"].unique(), key=lambda b: (b != base, b))
    rows = {f"{batch}": {"strategy": strategy, "batch_size": batch} for batch in batches}
    rows = {label: at for label, at in rows.items() if section.find(**at) is not None}
    against = {label: f"{base}" for label in rows if label != f"{base}"}
    caption = f"batch size, {strategy}; accuracy against {{}} (%)"
    head = "training batch size"
    return _grid(section, "Table 6", caption, head, rows, {None: {}}, against) if rows else None


def _table7(section):
    """Every entry that runs fill, the paper's rows first and in its order."""
    entries, rows = section.entries, []
    # Rows that are in Table 3 alone are left out.
    entries = entries[entries["filled"] & (entries["place"] != entries["place_in_table_3"])]
    for entry in sorted(entries.itertuples(), key=_place):
        attack = section.attacks[entry.attack_steps]
        labels = (entry.called, f"{entry.batch_size}", attack, entry.strategy)
        rows.append((labels, [(at, entry.Index) for at in section.columns]))
    heads = ["network", "batch", "training with", "training strategy"]
    names = list(section.columns.values())
    return _table(section, "Table 7", "all runs; accuracy (%)", heads, names, rows)


def _attacks(section):
    """The attacks in training with the base's network and batch size, ascending, by name."""
    entries, base = section.entries, section.base
    here = (entries["called"] == base["called"]) & (entries["batch_size"] == base["batch_size"])
    steps = sorted(set(entries.loc[here, "attack_steps"]) - {NO_ATTACK})
    return {section.attacks[at]: {"attack_steps": at} for at in steps}


def _place(entry):
    """The sort key of a row in Table 7: the paper's rows first, others in a like order."""
    steps, size = entry.attack_steps
    return (
        *(math.isnan(entry.place), 0 if math.isnan(entry.place) else entry.place),
        *(entry.depth, entry.batch_size, -steps, -size),
        *(entry.norm != "bn", entry.norm != "mbn", entry.norm, entry.domain == "clean"),
        *(-(entry.clean_ratio or 0), entry.pairing_weight or 0, entry.running_statistics),
    )


def csv(frame: pd.DataFrame) -> str:
    """A table as CSV, with enough places to tell any two counts of 50,000 images apart."""
    return frame.to_csv(index=False, float_format="%.3f", lineterminator="\n")


def markdown(heads: list[str], rows: list[list[str]], labels: int) -> str:
    """A Markdown table of strings, whose first `labels` columns are no numbers."""
    rule = [":--"] * labels + ["--:"] * (len(heads) - labels)
    lines = [map(escaped, heads), rule, *(map(escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: a star would begin emphasis and an underscore may."""
    for letter in "\\*_|<":
        text = text.replace(letter, "\\" + letter)
    return text


def _ours(cell):
    """Our number with its interval or spread: `"38.9 [38.5, 39.3] (-0.3)"`."""
    if math.isnan(cell["ours"]):
        return "-"
    if cell["n"] > 1:
        text = f"{cell['ours']:.1f} ± {cell['spread']:.1f} (n={cell['n']:.0f})"
    else:
        text = f"{cell['ours']:.1f} [{cell['low']:.1f}, {cell['high']:.1f}]"
    return text + _against(cell["change"])


def _papers(cell):
    if math.isnan(cell["paper"]):
        return "-"
    return f"{cell['paper']:.1f}" + _against(cell["paper_change"])


def _difference(cell):
    if math.isnan(cell["difference"]):
        return "-"
    low, high = cell["difference_low"], cell["difference_high"]
    interval = "" if math.isnan(low) else f" [{_signed(low)}, {_signed(high)}]"
    return _signed(cell["difference"]) + interval


def _against(change):
    """A change against another row, as the paper prints it: `" (+3.0)"`."""
    return "" if math.isnan(change) else f" ({_signed(change)})"


def _signed(number):
    """`"+3.0"`; `"0.0"` without a sign."""
    text = f"{number:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
