"""Trains on several machines, which are namespaces of this one; `make test-machines`.

    make test-machines                                 (ARGS="ssh faults" for some of the cases)
    make test-machines ARGS=scale                      (only on request: a measurement)
    python tools/test_machines.py [CASE ...] [--list] [--clean] [--dry]

It makes hosts on this machine (tools/machines/hosts.py), with real ssh between them, and trains on
them with real workers: tools/machines/ has a module of cases for each theme. It needs root, and
installs Debian's packages that are missing. It leaves nothing else, also when it is killed with -9.
What it saw of each case, with the date, goes to benchmarks/results/machines.json and into the table
of docs/reliability.md.
"""
# ruff: noqa: E402 - the benchmarks stand in the checkout's own folder.

import argparse
import datetime
import importlib
import itertools
import json
import signal
import sys
import time

from machines import hosts as making
from machines.cases import CASES
from machines.hosts import ROOT, Failure, Hosts

sys.path.insert(0, str(ROOT))

from benchmarks.performance import replaced

RESULTS = ROOT / "benchmarks" / "results" / "machines.json"
PAGE = ROOT / "docs" / "reliability.md"
THEMES = ("ssh", "faults", "ports", "mpi", "slurm")
ON_REQUEST = ("scale",)  # measures, and so needs cores that have nothing else to do


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="Cases or themes; by default all.")
    parser.add_argument("--list", action="store_true", help="Only list the cases.")
    parser.add_argument("--clean", action="store_true", help="Only remove what killed runs left.")
    parser.add_argument("--dry", action="store_true", help="Write neither results nor docs.")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # In the background of a shell it is ignored, and would be on every host.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        chosen = choose(options.cases)
    except Failure as failure:
        parser.error(str(failure))
    if options.list:
        for case in chosen:
            print(f"{case.name:20} {case.title}")
        return 0
    try:
        if options.clean:
            print("\n".join(making.clean()) or "there is nothing to remove")
            return 0
        making.check()
        needed = dict(making.PACKAGES)
        for case in chosen:
            needed |= case.packages
        making.install(making.missing(needed))
        rows = run(chosen)
    except Failure as failure:
        print(f"test_machines: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"\n{table(rows)}")
    if not options.dry:
        record(rows)
    return int(any(row["status"] != "passes" for row in rows))


def choose(words):
    """Returns the cases that some words name: cases, or the modules that they stand in."""
    for theme in (*THEMES, *ON_REQUEST):
        importlib.import_module(f"machines.{theme}")
    themes = {theme: [] for theme in (*THEMES, *ON_REQUEST)}
    for name, case in CASES.items():
        themes[case.run.__module__.rpartition(".")[2]].append(name)
    unknown = set(words) - set(CASES) - set(themes)
    if unknown:
        names = ", ".join([*themes, *CASES])
        raise Failure(f"cases must be among {names}; received {', '.join(sorted(unknown))}")
    wanted = {name for word in words or THEMES for name in themes.get(word, [word])}
    return [case for name, case in CASES.items() if name in wanted]


def run(cases):
    """Runs cases one after the other; returns a dictionary for each."""
    rows = []
    for names, group in itertools.groupby(cases, key=lambda case: case.hosts):
        print(f"making {', '.join(names)}...", flush=True)
        with Hosts(*names) as hosts:
            for case in group:
                rows.append(row := {"case": case.name, "tries": case.title})
                began = time.monotonic()
                try:
                    row |= {"status": "passes", "last line": case.run(hosts)}
                except Failure as failure:
                    row |= {"status": "fails", "last line": str(failure)}
                row["last line"] = making.without_folder(row["last line"])
                row["seconds"] = round(time.monotonic() - began)
                row["date"] = datetime.date.today().isoformat()
                line = f"{row['status']} after {row['seconds']} s: {row['last line']}"
                print(f"{case.name}: {line}", flush=True)
    return rows


def record(rows):
    """Puts rows in the place of older ones of the same cases, in the results and in the docs."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    known = {row["case"]: row for row in (*old, *rows)}
    rows = [known[name] for name in CASES if name in known]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(replaced(PAGE.read_text(), {"machines": table(rows)}))


def table(rows):
    """Returns the rows as Markdown."""
    columns = ("case", "tries", "date", "seconds", "status", "last line")
    lines = ["| case | what it tries | date | seconds | status | last line |", "|" + "---|" * 6]
    for row in rows:
        cells = [str(row[column]).replace("|", "\\|") for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
