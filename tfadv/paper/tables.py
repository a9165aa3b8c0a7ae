"""The paper's tables: which trainings and attacks their cells stand for, as CSV and Markdown."""

import dataclasses
import math

import numpy as np
import pandas as pd

from tfadv.paper.results import ATTACK, COLUMN, DATA
from tfadv.paper.sections import NO_ATTACK, Section, attack_names

BN = "100% adv + 100% clean"
ALP = f"{BN}, ALP"
ADV = "100% adv + 0% clean"
CLEAN = "0% adv + 100% clean"
MBN, MBN_ALP = f"MBN_adv, {BN}", f"MBN_adv, {ALP}"
# With running statistics in the last epochs, and what Tables 2 and 5 state it against.
_STARRED = {f"{strategy}*": strategy for strategy in (ADV, MBN, MBN_ALP)}
_WITH_AND_WITHOUT = [each for starred, plain in _STARRED.items() for each in (plain, starred)]

_NUMBERS = [
    *("ours", "low", "high", "spread", "n", "change"),
    *("paper", "paper_change", "difference", "difference_low", "difference_high", "runs"),
]


@dataclasses.dataclass
class Table:
    """A table of the paper, filled.

    Args:
        name: Such as `"Table 4"`.
        caption: What its numbers are.
        heads: Names of the columns of labels.
        cells: DataFrame, a row for each cell, row by row of the table: its labels, the name of
            its column (`measured`), and its numbers. `change` and `paper_change` are what the
            paper states as +3.0: the change against the cell of another row.
    """

    name: str
    caption: str
    heads: list[str]
    cells: pd.DataFrame

    @property
    def slug(self) -> str:
        """The name of its file: `"table4"`."""
        return self.name.lower().replace(" ", "")

    @property
    def columns(self) -> list[str]:
        """Names of the columns of numbers."""
        return list(self.cells["measured"].unique())

    def csv(self) -> str:
        """The cells as CSV, a line each."""
        return csv(self.cells.astype({"n": "Int64"})[[*self.heads, "measured", *_NUMBERS]])

    def markdown(self, paper: bool) -> str:
        """The table in Markdown.

        Args:
            paper: Whether the paper's numbers stand beside ours: in columns if the table has a
                single one, else in lines.
        """
        cells, columns = self.cells.to_dict("records"), self.columns
        labels = self.cells[self.heads].values.tolist()[:: len(columns)]
        texts = {"ours": _ours, "paper": _papers, "difference": _difference}
        texts = {
            name: np.reshape([text(cell) for cell in cells], (-1, len(columns))).tolist()
            for name, text in texts.items()
            if paper or name == "ours"
        }
        if paper and len(columns) > 1:
            rows = [
                [*(label if name == "ours" else [""] * len(label)), name, *lines[row]]
                for row, label in enumerate(labels)
                for name, lines in texts.items()
                # A row that the paper does not have is ours alone.
                if name == "ours" or set(texts["paper"][row]) != {"-"}
            ]
            return markdown([*self.heads, "", *columns], rows, len(self.heads) + 1)
        rows = [sum(row, []) for row in zip(labels, *texts.values(), strict=True)]
        return markdown([*self.heads, *(texts if paper else columns)], rows, len(self.heads))


def tables(section: Section) -> list[Table]:
    """The paper's tables as far as a section fills them.

    In the paper's own setting a table has all of the paper's rows, and one cell of ours at least.
    Elsewhere it has only the rows that runs fill, at least two cells, and "PGD-2000" is the largest
    number of steps that these were all attacked with.
    """
    made = [make(section) for make in (_table1, _table2, _table3, _table4, _table5, _table6)]
    made = [table for table in made if table]
    for table in () if section.paper else made:
        width = len(table.columns)
        filled = np.reshape(table.cells["n"] > 0, (-1, width)).any(axis=1)
        table.cells = table.cells[filled.repeat(width)]
    least = 1 if section.paper else 2
    return [t for t in made if (t.cells["n"] > 0).sum() >= least] + [_table7(section)]


def table3_across(sections: list[Section]) -> list[Table]:
    """Table 3 of runs that are not the paper's, whose rows differ in what divides sections."""
    groups = {}
    for section in sections:
        entries = section.entries[section.entries["strategy"] == ALP]
        if len(entries):
            key = tuple(section.setting[["beside_recipe", *DATA, *ATTACK]])
            groups.setdefault(key, []).append((section, entries))
    made = []
    for parts in groups.values():
        if len(parts) > 1:
            filled = [s.numbers.loc[entries.index].query("n > 0") for s, entries in parts]
            made.append(_recipes(parts, set(pd.concat(filled).index.droplevel("entry"))))
    return made


def _table(section, name, caption, heads, cells):
    """A table of cells `(labels, measured, column, entry, reference)`."""
    return Table(name, caption, heads, _filled(section, heads, cells))


def _filled(section, heads, cells):
    """Cells with their numbers, NaN where there is no entry or it has no such number."""
    numbered = ["entry", *COLUMN, "reference"]
    cells = pd.DataFrame(
        [
            (*labels, measured, entry, *(column or (None, None)), reference)
            for labels, measured, column, entry, reference in cells
        ],
        columns=[*heads, "measured", *numbered],
    ).astype(dict.fromkeys(numbered, float))
    cells = cells.join(section.numbers, on=["entry", *COLUMN])
    reference = cells[numbered].join(section.numbers[["ours", "paper"]], on=["reference", *COLUMN])
    cells["change"] = cells["ours"] - reference["ours"]
    cells["paper_change"] = cells["paper"] - reference["paper"]
    return cells


def _against_strongest(section, name, caption, head, cells):
    """A table of cells `(label, measured, entry, reference)` against the strongest attack."""
    column = section.strongest([entry for _, _, entry, _ in cells])
    if column is None:
        return None
    attack = section.columns[column]
    cells = [
        ((label,), measured or attack, column, entry, reference)
        for label, measured, entry, reference in cells
    ]
    return _table(section, name, caption.format(attack), [head], cells)


def _table1(section):
    """Two halves: clean images through one branch, the strongest attack through the other."""
    cells = []
    for strategies, column in (
        ((CLEAN, f"MBN_clean, {BN}", f"MBN_clean, {ALP}"), NO_ATTACK),
        ((ADV, MBN, MBN_ALP), None),
    ):
        entries = [section.find(strategy) for strategy in strategies]
        column = column or section.strongest(entries)
        for strategy, entry in zip(strategies, entries, strict=True):
            reference = None if strategy == strategies[0] else entries[0]
            labels = (section.columns.get(column), strategy)
            cells.append((labels, "accuracy", column, entry, reference))
    caption = "each branch of a mixture beside a network trained for its domain alone; accuracy (%)"
    return _table(section, "Table 1", caption, ["images", "training strategy"], cells)


def _table2(section):
    entries = {strategy: section.find(strategy) for strategy in _WITH_AND_WITHOUT}
    cells = [(s, None, entry, entries.get(_STARRED.get(s))) for s, entry in entries.items()]
    caption = "running statistics in the last epochs (*); accuracy against {} (%)"
    return _against_strongest(section, "Table 2", caption, "training strategy", cells)


def _table3(section):
    """Adversarial logit pairing under the settings of the paper's rows; None without such rows."""
    entries = section.entries.dropna(subset="place_in_table_3").sort_values("place_in_table_3")
    if entries.empty:
        return None
    # Some of its rows stand in Table 7 too, with more columns.
    count = section.numbers["paper"].loc[entries.index].groupby(COLUMN).count()
    return _recipes([(section, entries)], count.index[count == len(entries)])


def _recipes(parts, columns):
    """Table 3 of pairs of a section and some of its entries."""
    heads = [
        *("PGD-N for training", "network", "batch", "start from clean", "optimizer"),
        *("learning rate", "decay"),
    ]
    names = attack_names(columns)
    frames = []
    for section, entries in parts:
        cells = []
        for entry in entries.itertuples():
            labels = (
                *(f"{entry.num_steps}", entry.called, f"{entry.batch_size}"),
                *(f"{entry.start_from_clean:g}", entry.optimizer, f"{entry.learning_rate:g}"),
                f"{entry.decay}, {entry.epochs} epochs",
            )
            cells += [(labels, name, column, entry.Index, None) for column, name in names.items()]
        frames.append(_filled(section, heads, cells))
    caption = "adversarial logit pairing under other parameters of training; accuracy (%)"
    return Table("Table 3", caption, heads, pd.concat(frames))


def _table4(section):
    attacks, base = _attacks(section), section.base["attack"]
    if len(attacks) < 2 and not section.paper:
        return None
    cells = []
    for attack in reversed(attacks):
        for strategy in (ADV, BN, ALP, MBN, MBN_ALP):
            # The paper states all other attacks against PGD-30, the base.
            reference = None if attack == base else section.find(strategy)
            entry = section.find(strategy, attack=attack)
            cells.append((section.attacks[attack], strategy, entry, reference))
    caption = "attacks in training; accuracy against {} (%)"
    return _against_strongest(section, "Table 4", caption, "training with", cells)


def _table5(section):
    cells = []
    for strategy in _WITH_AND_WITHOUT:
        for attack in _attacks(section):
            entry = section.find(strategy, attack=attack)
            reference = section.find(_STARRED.get(strategy), attack=attack)
            cells.append((strategy, section.attacks[attack], entry, reference))
    if all(entry is None for strategy, _, entry, _ in cells if strategy in _STARRED):
        return None
    caption = "running statistics (*) by attack in training; {} (%)"
    return _against_strongest(section, "Table 5", caption, "training strategy", cells)


def _table6(section):
    strategy, base = f"{ADV}*", section.base["batch_size"]
    cells = []
    for batch in sorted(section.entries["batch_size"].unique(), key=lambda b: (b != base, b)):
        entry = section.find(strategy, batch_size=batch)
        if entry is not None:
            reference = None if batch == base else section.find(strategy)
            cells.append((f"{batch}", None, entry, reference))
    caption = f"batch size, {strategy}; accuracy against {{}} (%)"
    return _against_strongest(section, "Table 6", caption, "training batch size", cells)


def _table7(section):
    """Everything that runs fill, in the paper's order, and below it what the paper has not."""
    entries, cells = section.entries, []
    # Rows that are in Table 3 alone are left out.
    entries = entries[entries["filled"] & (entries["place"] != entries["place_in_table_3"])]
    for entry in sorted(entries.itertuples(), key=_place):
        attack = section.attacks[entry.attack]
        labels = (entry.called, f"{entry.batch_size}", attack, entry.strategy)
        cells += [(labels, name, at, entry.Index, None) for at, name in section.columns.items()]
    heads = ["network", "batch", "training with", "training strategy"]
    return _table(section, "Table 7", "all runs; accuracy (%)", heads, cells)


def _attacks(section):
    """The attacks in training that the base's network and batch were trained with, ascending."""
    entries, base = section.entries, section.base
    here = (entries["called"] == base["called"]) & (entries["batch_size"] == base["batch_size"])
    return sorted(set(entries.loc[here, "attack"]) - {NO_ATTACK})


def _place(entry):
    """The paper's rows in its order, and others as it would have set them out."""
    steps, size = entry.attack
    return (
        *(math.isnan(entry.place), 0 if math.isnan(entry.place) else entry.place),
        *(entry.depth, entry.batch_size, -steps, -size),
        *(entry.norm != "bn", entry.norm != "mbn", entry.norm, entry.domain == "clean"),
        *(-(entry.clean_ratio or 0), entry.pairing_weight or 0, entry.running_statistics),
    )


def csv(frame: pd.DataFrame) -> str:
    """A table as CSV, with percentages to three places, which no count of 50,000 images exceeds."""
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
    """Ours with its interval, or over several runs its spread: `"38.9 [38.5, 39.3] (-0.3)"`."""
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
    """As the paper states a number against that of another row: `" (+3.0)"`."""
    return "" if math.isnan(change) else f" ({_signed(change)})"


def _signed(number):
    """`"+3.0"`; `"0.0"` without a sign."""
    text = f"{number:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
