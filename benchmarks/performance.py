"""Rewrites the tables of docs/performance.md: `python -m benchmarks.performance`.

They come from results/*.json, NAME.json or, of another machine, NAME.MACHINE.json. A table stands
between `<!-- NAME -->` and the next `<!-- end -->`; everything else stays as it is.
"""

import importlib
import pathlib

from benchmarks import hardware, measuring

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "performance.md"
# One line a benchmark: the module benchmarks/NAME.py, its results/NAME.json and its marker. They
# run in this order.
BENCHMARKS = (
    "attack",
    "precision",
    "training_step",
    "normalization",
    "evaluation",
    "workers",
    "memory",
    "input",
    "scale",
)


def replaced(page, tables):
    """The text of a page with new tables.

    Args:
        page: The text.
        tables: Dictionary, name of a marker -> Markdown.

    Raises:
        ValueError: For a table without a marker, or a marker without an end.
    """
    for name, markdown in tables.items():
        marker, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(marker)
        old, ended, after = rest.partition(end)
        if not found or not ended or "<!-- " in old:
            raise ValueError(f"the page must have {marker.strip()} and then {end}")
        page = "".join([before, marker, "\n", markdown.strip("\n"), "\n\n", end, after])
    return page


def section(report, table):
    """The Markdown of a report: its benchmark's `table`, and what machine it was measured on."""
    return "\n".join([table(report).strip("\n"), "", hardware.describe(report["machine"])])


def rewrite(tables):
    """Puts tables, by the names of their markers, into docs/performance.md."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, tables), encoding="utf-8")


def main():
    tables = {}
    others = sorted(path.stem for path in measuring.RESULTS.glob("*.*.json"))
    for name in (*BENCHMARKS, *others):
        report = measuring.read(name)
        if report is None:
            measuring.progress(f"{name}: not measured yet; its table stays as it is")
            continue
        module = importlib.import_module(f"benchmarks.{name.partition('.')[0]}")
        tables[name] = section(report, module.table)
    rewrite(tables)


if __name__ == "__main__":
    main()
