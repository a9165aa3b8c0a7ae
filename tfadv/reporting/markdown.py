"""Tables as Markdown."""

from tfadv.reporting.numbers import change


def table(made, paper):
    """A table in Markdown.

    With the paper's numbers, one of a single column has columns for ours, the paper's and their
    difference; one of several columns has a line for each.

    Args:
        made: A `tfadv.reporting.table.Table`.
        paper: Whether the paper's numbers stand beside ours.

    Returns:
        A string of lines.
    """
    heads, rows = list(made.heads), []
    if not paper:
        heads += made.columns
        rows = [[*labels, *(_ours(cell) for cell in cells)] for labels, cells in made.rows]
    elif len(made.columns) == 1:
        heads += ["ours", "paper", "difference"]
        for labels, [cell] in made.rows:
            rows.append([*labels, _ours(cell), _papers(cell), _difference(cell)])
    else:
        heads += ["", *made.columns]
        for labels, cells in made.rows:
            blank = [""] * len(labels)
            for first, name, show in (
                (labels, "ours", _ours),
                (blank, "paper", _papers),
                (blank, "difference", _difference),
            ):
                # A row that the paper does not have is ours alone.
                if name == "ours" or any(_papers(cell) != "-" for cell in cells):
                    rows.append([*first, name, *map(show, cells)])
    return lines(heads, rows, len(made.heads) + (paper and len(made.columns) > 1))


def lines(heads, rows, labels):
    """A Markdown table of strings, whose first `labels` columns are no numbers."""
    body = [list(map(escaped, row)) for row in rows]
    rule = [":--"] * labels + ["--:"] * (len(heads) - labels)
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(map(escaped, heads)), rule, *body])


def escaped(text):
    """Text that Markdown shows as it is: a star would begin emphasis and an underscore may."""
    for letter in "\\*_|<":
        text = text.replace(letter, "\\" + letter)
    return text


def value(number):
    """Ours, with its 95% interval, or with the spread over several runs: `"38.9 [38.5, 39.3]"`."""
    if not number:
        return "-"
    if number.spread is not None:
        return f"{number.ours:.1f} ± {number.spread:.1f} (n={len(number.results)})"
    low, high = number.interval
    return f"{number.ours:.1f} [{low:.1f}, {high:.1f}]"


def signed(difference):
    """`"+3.0"`; `"0.0"` without a sign."""
    text = f"{difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _ours(cell):
    return value(cell.number) + _against(cell, "ours")


def _papers(cell):
    if cell.number is None or cell.number.paper is None:
        return "-"
    return f"{cell.number.paper:.1f}" + _against(cell, "paper")


def _difference(cell):
    number = cell.number
    if number is None or number.difference is None:
        return "-"
    text = signed(number.difference)
    if number.difference_interval:
        low, high = map(signed, number.difference_interval)
        text += f" [{low}, {high}]"
    return text


def _against(cell, whose):
    """As the paper states it against another row: `" (+3.0)"`."""
    found = change(cell.number, cell.reference, whose)
    return "" if found is None else f" ({signed(found)})"
