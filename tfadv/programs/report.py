"""`tfadv.report`, from its command line to its last line."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfadv.programs import flagfiles, flags
from tfadv.programs.run_directory import RunDirectory, check_directory
from tfadv.settings import EVALUATE, REPORT, TRAIN

_FLAGS = flagfiles.SHIPPED / "flags"


def parse(arguments: list[str]) -> SimpleNamespace:
    """Parses and checks the command line."""
    settings = flags.parse(
        REPORT,
        arguments,
        positional="directories",
        description="Makes the paper's tables and figures from the directories of finished runs.",
    )
    check_directory("output", settings.output)
    return settings


def prepare(settings: SimpleNamespace) -> "ReportRun":
    """Reads the paper's numbers and the results of the runs.

    Raises:
        ValueError: If none of the directories holds a run that was evaluated.
    """
    run = ReportRun(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    return run


class ReportRun:
    """A report that is ready to be written.

    Attributes:
        output: The directory that it goes to.
        report: The `tfadv.paper.Report`.
    """

    output: Path
    report: Any

    def __init__(self, settings: SimpleNamespace):
        from tfadv import paper

        self.output = Path(settings.output)
        self._runs: list = []
        self._doubts: list[str] = []
        self._problems: list[str] = []
        self._seen: set[Path] = set()
        self._channels: dict = {}
        self._unread = 0
        for directory in dict.fromkeys(map(os.path.normpath, settings.directories)):
            self._search(directory)
        if not self._runs:
            raise ValueError(
                "directories must hold runs of tfadv.train that were evaluated; "
                + "; ".join(self._problems)
            )
        evaluation = flags.parse(EVALUATE, [f"--flagfile={_FLAGS / 'eval' / 'paper.flags'}"])
        published = paper.published(lambda name: _trained(_FLAGS / f"{name}.flags"), evaluation)
        self.report = paper.Report(
            published, evaluation, self._runs, self._doubts, self._problems, self._channels
        )

    def run(self) -> int:
        """Writes all files; returns the number of files that could not be read."""
        for name, content in self.report.files().items():
            if isinstance(content, str):
                content = content.encode()
            (self.output / name).write_bytes(content)
        for problem in self._problems:
            print(f"tfadv.report: left out: {problem}", file=sys.stderr)
        print(f"{self.report.summary}\nwritten to:   {self.output / 'report.md'}", flush=True)
        return self._unread

    def _search(self, path):
        """Reads the run in a directory, or else the runs in its subdirectories."""
        files = [RunDirectory(path).flags]
        if not files[0].is_file():
            files = sorted(Path(path).rglob(files[0].name))
        for file in files:
            if file not in self._seen:
                self._seen.add(file)
                self._read(RunDirectory(file.parent))
        if not files:
            self._problems.append(f"{path}: no run of tfadv.train (no flags.txt)")

    def _read(self, directory):
        from tfadv import paper

        name = str(directory.path)
        try:
            settings = _trained(directory.flags)
        except (ValueError, OSError) as error:
            self._unreadable(directory.flags, error)
            return
        results, known = [], len(self._problems)
        # The file that evaluate writes by default comes first: it counts where two disagree.
        for path in sorted(
            directory.path.glob("*.json"), key=lambda path: (path != directory.evaluation, path)
        ):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(document, dict) and "results" in document:
                    rows, doubts = paper.measured(document, name, path.name, settings)
                    results.append(rows)
                    self._doubts += [f"{name}: {doubt}" for doubt in doubts]
            except RecursionError:
                self._unreadable(path, "it is nested too deeply")
            except (ValueError, OSError) as error:
                self._unreadable(path, error)
        if results:
            rows, problems = paper.merged(results)
            self._problems += [f"{name}: {problem}" for problem in problems]
            if len(rows):
                self._runs.append(rows)
                self._read_channels(directory)
        elif len(self._problems) == known:
            self._problems.append(f"{name}: not evaluated yet (python -m tfadv.evaluate)")

    def _read_channels(self, directory):
        """Reads what `tfadv.inspect` wrote, in the run's directory or where a user copied it to."""
        from tfadv import paper

        for path in (directory.inspection, directory.path):
            file = path / "statistics.csv"
            if file.is_file():
                try:
                    self._channels[str(directory.path)] = paper.channels(file)
                except (ValueError, OSError) as error:
                    self._unreadable(file, error)
                return

    def _unreadable(self, path, error):
        self._unread += 1
        self._problems.append(f"{path}: cannot be read: {' '.join(str(error).split())}")


def _trained(path):
    from tfadv import paper

    return paper.trained(vars(flags.parse(TRAIN, [f"--flagfile={path}"])))
