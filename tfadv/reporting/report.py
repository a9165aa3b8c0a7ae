import dataclasses

from tfadv.reporting import (
    csv_tables,
    curves,
    descriptions,
    figures,
    listings,
    markdown,
    sections,
    tables,
)

_LEGEND = (
    "Accuracy in percent, with the 95% Wilson interval that the number of images leaves in "
    "brackets; over n runs their mean ± standard deviation. In parentheses, where the paper's "
    "table states a change: the change against the row that it refers to."
)
_DIFFERENCE = (
    "The difference is ours minus the paper's, whose number counts as exact: its interval speaks "
    "of the images of one run, not of another training."
)


@dataclasses.dataclass
class Report:
    """The paper's tables and figures from finished runs.

    Args:
        rows: List of `PaperRow`, with their settings.
        protocol: `PaperProtocol`.
        runs: List of `Run`.
        problems: List of strings: what was left out and why.
    """

    rows: list
    protocol: object
    runs: list
    problems: list

    def __post_init__(self):
        self.papers = sections.papers(self.rows, self.protocol, self.runs)
        self.others = sections.others(self.papers, self.protocol, self.runs)
        self.names = ["paper", *descriptions.names(self.others)]

    @property
    def summary(self):
        """Some lines for a terminal."""
        filled = sum(entry.filled for entry in self.papers.entries if entry.tables)
        beyond = sum(entry.filled for entry in self.papers.entries if not entry.tables)
        more = f", and {beyond} more in its setting" if beyond else ""
        found = [
            f"runs:         {len(self.runs)}",
            f"comparable:   {filled} of the paper's {len(self.rows)} rows filled{more}",
        ]
        for name, section in zip(self.names[1:], self.others, strict=True):
            rows = sum(entry.filled for entry in section.entries)
            rows = f"{rows} row" + ("s" if rows != 1 else "")
            found.append(f"other:        {name}, {rows}, not comparable with the paper")
        return "\n".join(found)

    def files(self):
        """Everything that is written: a dictionary, name of a file -> string or bytes."""
        found = {}
        parts = [f"# Report\n\n```\n{self.summary}\n```"]
        if self.problems:
            parts.append("Left out:\n\n" + "\n".join(f"- {each}" for each in self.problems))
        doubts = [f"- {run.name}: {doubt}" for run in self.runs for doubt in run.doubts]
        if doubts:
            parts.append("Evaluations that doubt themselves:\n\n" + "\n".join(doubts))
        parts.append("## The paper's tables")
        if any(entry.filled for entry in self.papers.entries):
            how = descriptions.protocol(self.papers.protocol)
            parts.append(f"{_LEGEND} {_DIFFERENCE}\n\nMeasured as in the paper: {how}.")
            parts += self._section(self.papers, "", found)
        else:
            parts.append("No run was trained and measured as in the paper.")
        if self.others:
            parts.append("## Other data or sizes: not comparable with the paper")
            parts.append(f"{_LEGEND} The paper's numbers do not belong here.")
        for name, section in zip(self.names[1:], self.others, strict=True):
            how = descriptions.protocol(section.protocol)
            parts += [
                f"### {name}",
                descriptions.differences(section, self.papers),
                f"Measured: {how}. Tables that vary one thing stand at: "
                f"{descriptions.base(section)}. What is not named here is as in the paper.\n\n"
                f"Runs: {', '.join(section.runs)}.",
                *self._section(section, f"{name}-", found),
            ]
        across = listings.table3_across(self.others)
        if across:
            parts.append("### Across these settings")
        for number, table in enumerate(across, 1):
            slug = f"other-{table.slug}" + (f"-{number}" if number > 1 else "")
            parts += self._table(table, False, slug, found)
        found["results.csv"] = csv_tables.results(
            list(zip(self.names, [self.papers, *self.others], strict=True))
        )
        return {"report.md": "\n\n".join(parts) + "\n", **found}

    def _section(self, section, prefix, found):
        parts = []
        for table in tables.tables(section):
            parts += self._table(table, section.paper, prefix + table.slug, found)
        for chart in curves.charts(section):
            subtitle = "" if section.paper else descriptions.title(section)
            figure = figures.draw(chart, subtitle)
            slug = prefix + chart.slug
            for kind in ("png", "svg"):
                found[f"{slug}.{kind}"] = figures.render(figure, kind)
            parts += [_heading(chart.name, chart.title, section.paper)]
            parts.append(f"![{chart.name}]({slug}.png)")
        return parts

    def _table(self, table, paper, slug, found):
        found[f"{slug}.csv"] = csv_tables.table(table)
        return [_heading(table.name, table.caption, paper), markdown.table(table, paper)]


def _heading(name, caption, paper):
    start = f"### {name}" if paper else f"#### As {name}"
    return f"{start}: {markdown.escaped(caption)}"
