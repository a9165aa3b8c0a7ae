import json
import os
import pathlib
import sys

from tfadv import paper
from tfadv.programs import flagfiles, flags
from tfadv.programs.run_directory import RunDirectory
from tfadv.programs.settings import EVALUATE, TRAIN, Role, names

_FLAGS = flagfiles.SHIPPED / "flags"
# What may differ between runs of one row: a seed makes another run, not another row.
FREE = (*names(TRAIN, Role.FREE), "seed")


def prepare(settings):
    """Reads the paper's numbers and everything that was measured of the runs.

    Args:
        settings: Namespace, of `command_lines.report`.

    Returns:
        A `ReportRun`.

    Raises:
        ValueError: If none of the directories holds a run.
    """
    run = ReportRun(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    return run


def published():
    """The paper's numbers, and the settings of its evaluation."""
    evaluation = _parse(EVALUATE, _FLAGS / "eval" / "paper.flags")
    return paper.published(lambda name: _trained(_FLAGS / f"{name}.flags"), evaluation), evaluation


class ReportRun:
    """A run of `tfadv.report`, ready to start."""

    def __init__(self, settings):
        self.output = pathlib.Path(settings.output)
        self._runs = []
        self._problems = []
        self._unread = 0
        self._seen = set()
        for directory in dict.fromkeys(map(os.path.normpath, settings.directories)):
            self._search(directory)
        if not self._runs:
            raise ValueError(
                "directories must hold runs of tfadv.train that were evaluated; "
                + "; ".join(self._problems)
            )
        self.report = paper.Report(*published(), self._runs, self._problems)

    def run(self):
        """Writes all files; returns how many could not be read."""
        for name, content in self.report.files().items():
            if isinstance(content, str):
                content = content.encode()
            (self.output / name).write_bytes(content)
        for problem in self._problems:
            print(f"tfadv.report: left out: {problem}", file=sys.stderr)
        print(f"{self.report.summary}\nwritten to:   {self.output / 'report.md'}", flush=True)
        return self._unread

    def _search(self, path):
        """Adds the run of a directory; of one that is no run, those of its sub-directories."""
        files = [RunDirectory(path).flags]
        if not files[0].is_file():
            files = sorted(pathlib.Path(path).rglob(files[0].name))
        for file in files:
            if file not in self._seen:
                self._seen.add(file)
                self._read(RunDirectory(file.parent))
        if not files:
            self._problems.append(f"{path}: no run of tfadv.train (no flags.txt)")

    def _read(self, directory):
        try:
            run = paper.Run(str(directory.path), _trained(directory.flags))
        except (ValueError, OSError) as error:
            self._unreadable(directory.flags, error)
            return
        # The file that evaluate writes by default comes first: it counts where two disagree.
        files = sorted(
            directory.path.glob("*.json"), key=lambda path: (path != directory.evaluation, path)
        )
        known = len(self._problems)
        for path in files:
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(document, dict) and "results" in document:
                    self._problems += [f"{run.name}: {p}" for p in run.add(document, path.name)]
            except RecursionError:
                self._unreadable(path, "it is nested too deeply")
            except (ValueError, OSError) as error:
                self._unreadable(path, error)
        if run.rows:
            self._runs.append(run)
        elif len(self._problems) == known:
            self._problems.append(f"{run.name}: not evaluated yet (python -m tfadv.evaluate)")

    def _unreadable(self, path, error):
        self._unread += 1
        self._problems.append(f"{path}: cannot be read: {' '.join(str(error).split())}")


def _trained(path):
    return paper.trained(vars(_parse(TRAIN, path)), FREE)


def _parse(table, path):
    return flags.parse(table, [f"--flagfile={path}"])
