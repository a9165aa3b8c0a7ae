"""Rewrites the tables of docs/performance.md: `python -m benchmarks.performance`.

They come from results/NAME.json, or for another machine from results/NAME.MACHINE.json. A table
stands between `<!-- NAME -->` and the next `<!-- end -->`; everything else stays as it is.
"""

import importlib
import pathlib

from benchmarks import hardware, measuring

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "performance.md"
# Each name is that of a module benchmarks/NAME.py, of its results/NAME.json and of its marker. The
# benchmarks run in this order.
BENCHMARKS = (
    "attack",
    "precision",
    "training_step",
    "normalization",
    "evaluation",
    "autoattack",
    "autoattack_strength",
    "workers",
    "memory",
    "input",
    "scale",
)


def replaced(page, tables):
    """Returns the text of a page with new tables.

    Args:
        page: The text.
        tables: Dictionary, name of a marker -> Markdown.

    Raises:
        ValueError: A table has no marker, or a marker no end.
    """
    for name, markdown in tables.items():
        marker, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, has_marker, rest = page.partition(marker)
        old, has_end, after = rest.partition(end)
        if not has_marker or not has_end or "<!-- " in old:
            raise ValueError(f"the page must have {marker.strip()} and then {end}")
        page = "".join([before, marker, "\n", markdown.strip("\n"), "\n\n", end, after])
    return page


def section(report, table):
    """Returns a report's Markdown: the benchmark's `table`, and a line about the machine."""
    return "\n".join([table(report).strip("\n"), "", hardware.describe(report["machine"])])


def rewrite(tables):
    """Writes tables into docs/performance.md, given by the names of their markers."""
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
