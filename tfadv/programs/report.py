import json
import os
import pathlib
import sys

from tfadv import reporting
from tfadv.data import catalog
from tfadv.programs import flagfiles, flags
from tfadv.programs.run_directory import RunDirectory
from tfadv.programs.settings import EVALUATE, TRAIN, Role, names

_FLAGS = flagfiles.SHIPPED / "flags"
# What may differ between runs of one row: a seed makes another run, not another row.
FREE = (*names(TRAIN, Role.FREE), "seed")


def prepare(settings):
    """Reads the paper's rows and everything that was measured of the runs.

    Args:
        settings: Namespace, of `command_lines.report`.

    Returns:
        A `ReportRun`.

    Raises:
        ValueError: If none of the directories holds a run.
    """
    rows = paper_rows()
    first = rows[0].settings
    protocol = reporting.PaperProtocol(
        _parse(EVALUATE, _FLAGS / "eval" / "paper.flags"),
        reporting.validation(catalog.ENTRIES[first["dataset"]], first["image_size"]),
    )
    collected = _Collected()
    for directory in dict.fromkeys(map(os.path.normpath, settings.directories)):
        collected.search(directory)
    if not collected.runs:
        raise ValueError(
            "directories must hold runs of tfadv.train that were evaluated; "
            + "; ".join(collected.problems)
        )
    output = pathlib.Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    report = reporting.Report(rows, protocol, collected.runs, collected.problems)
    return ReportRun(output, report, collected.unread)


def paper_rows():
    """The paper's rows, with the settings that their flagfiles say."""
    rows = reporting.rows()
    for row in rows:
        row.settings = _trained(_FLAGS / f"{row.flagfile}.flags")
    return rows


class ReportRun:
    """A run of `tfadv.report`, ready to start."""

    def __init__(self, output, report, unread):
        self.output = output
        self.report = report
        self.unread = unread

    def run(self):
        """Writes all files; returns how many could not be read."""
        for name, content in self.report.files().items():
            if isinstance(content, str):
                content = content.encode()
            (self.output / name).write_bytes(content)
        for problem in self.report.problems:
            print(f"tfadv.report: left out: {problem}", file=sys.stderr)
        print(f"{self.report.summary}\nwritten to:   {self.output / 'report.md'}", flush=True)
        return self.unread


class _Collected:
    def __init__(self):
        self.runs = []
        self.problems = []
        self.unread = 0
        self.seen = set()

    def search(self, path):
        """Adds the run of a directory; of one that is no run, those of its sub-directories."""
        if RunDirectory(path).flags.is_file():
            self._read(RunDirectory(path))
            return
        found = sorted(pathlib.Path(path).rglob(RunDirectory(path).flags.name))
        for file in found:
            self._read(RunDirectory(file.parent))
        if not found:
            self.problems.append(f"{path}: no run of tfadv.train (no flags.txt)")

    def _read(self, directory):
        if directory.path in self.seen:
            return
        self.seen.add(directory.path)
        try:
            run = reporting.Run(str(directory.path), _trained(directory.flags))
        except (ValueError, OSError) as error:
            self._unreadable(directory.flags, error)
            return
        # What evaluate writes by itself comes first, and counts where two files disagree.
        files = sorted(
            directory.path.glob("*.json"), key=lambda path: (path != directory.evaluation, path)
        )
        known = len(self.problems)
        for path in files:
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(document, dict) and "results" in document:
                    self.problems += [f"{run.name}: {p}" for p in run.add(document, path.name)]
            except RecursionError:
                self._unreadable(path, "it is nested too deeply")
            except (ValueError, OSError) as error:
                self._unreadable(path, error)
        if run.measurements:
            self.runs.append(run)
        elif len(self.problems) == known:
            self.problems.append(f"{run.name}: not evaluated yet (python -m tfadv.evaluate)")

    def _unreadable(self, path, error):
        self.unread += 1
        self.problems.append(f"{path}: cannot be read: {' '.join(str(error).split())}")


def _trained(path):
    return reporting.trained(_parse(TRAIN, path), FREE)


def _parse(table, path):
    return flags.parse(table, [f"--flagfile={path}"])
