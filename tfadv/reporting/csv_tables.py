"""Tables and results as CSV, one number a line."""

import csv
import io

from tfadv.reporting import settings as meaning
from tfadv.reporting.numbers import change
from tfadv.reporting.sections import axes
from tfadv.reporting.table import attack_name

_NUMBERS = (
    *("ours", "low", "high", "spread", "n", "change"),
    *("paper", "paper_change", "difference", "difference_low", "difference_high", "runs"),
)


def table(made):
    """A table as CSV: a line for each of its cells.

    Accuracies in percent: `low` and `high` are the 95% interval of one run, `spread` the standard
    deviation over `n` runs, `change` what the paper states against another row.

    Args:
        made: A `tfadv.reporting.table.Table`.

    Returns:
        A string.
    """
    rows = []
    for labels, cells in made.rows:
        for name, cell in zip(made.columns, cells, strict=True):
            number = cell.number
            ours = change(number, cell.reference, "ours")
            papers = change(number, cell.reference, "paper")
            if number is None:
                rows.append([*labels, name, *[""] * len(_NUMBERS)])
                continue
            low, high = number.interval or (None, None)
            below, above = number.difference_interval or (None, None)
            values = (number.ours, low, high, number.spread)
            rows.append(
                [
                    *(*labels, name, *map(_text, values), len(number.results), _text(ours)),
                    *map(_text, (number.paper, papers, number.difference, below, above)),
                    " ".join(number.runs),
                ]
            )
    return _csv([*made.heads, "measured", *_NUMBERS], rows)


def results(named):
    """Every result of every run, a line each.

    Args:
        named: List of pairs of a name and a `Section`.

    Returns:
        A string.
    """
    rows = []
    for name, section in named:
        for entry in section.entries:
            network, batch, attack = axes(entry)
            for column, number in sorted(entry.numbers.items()):
                paper = number.paper if section.paper else None
                for run, measurement in number.results:
                    result = measurement.result
                    accuracy = 100 * result.accuracy
                    low, high = (100 * end for end in result.interval)
                    difference = None if paper is None else accuracy - paper
                    rows.append(
                        [
                            *(run, measurement.file, name, meaning.network(entry.settings), batch),
                            *(attack_name(section, attack) if attack else "", section.label(entry)),
                            *(entry.domain or "", column.name, column.step_size or ""),
                            *(result.correct, result.total, *map(_text, (accuracy, low, high))),
                            *map(_text, (paper, difference)),
                            "yes" if section.paper else "no",
                        ]
                    )
    heads = (
        *("run", "file", "setting", "network", "batch", "training_with", "strategy", "domain"),
        *("measured", "step_size", "correct", "total", "ours", "low", "high"),
        *("paper", "difference", "comparable"),
    )
    return _csv(heads, rows)


def _text(value):
    """A percentage to three places, which no count of 50,000 images exceeds."""
    return "" if value is None else f"{value:.3f}"


def _csv(heads, rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()
