"""Runs what is missing of the study: the paper's findings on Fashion-MNIST, on one machine.

    make study                              all runs that have no results yet
    make study ARGS="study/mbn map/*gn*"    those whose names begin so
    make study ARGS="--list"                what there is, and the time that is left
    python tools/study.py [--list] [names]

A run is trained, evaluated and inspected in `runs/study/NAME`, and its results are copied to
`docs/study/results/NAME`, which is what counts as done. It can be stopped at any time, and goes on
where it stopped. All runs of a seed come before those of the next. The search for the recipe
(`search/...`) runs only when it is named.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = Path("runs/study"), Path("docs/study/results")
KEPT = ("flags.txt", "evaluation.json", "inspection/statistics.csv")


@dataclasses.dataclass(frozen=True)
class Run:
    """A training with one seed, and its evaluation.

    Attributes:
        name: Such as `"study/mbn/seed0"`.
        seed: The seed of the training and of the evaluation.
        train: Flags of `tfadv.train`.
        evaluate: Flags of `tfadv.evaluate`.
        first: The name of the run whose network it starts from, or None.
    """

    name: str
    seed: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    first: str | None = None

    @property
    def directory(self) -> Path:
        return RUNS / self.name

    @property
    def results(self) -> Path:
        return RESULTS / self.name

    @property
    def is_done(self) -> bool:
        return (self.results / "cost.json").is_file()


MAIN = {
    "bn": [],
    "bn_apart": ["--batch_statistics=apart"],
    "adversarial_only": ["--clean_ratio=0"],
    "mbn": ["--norm=mbn"],
    "gn": ["--norm=gn"],
}

# One change of the start each; the best of them, and their combination, make the recipe.
SEARCH = {
    "start": [],
    "rate_0.1": ["--learning_rate=0.1"],
    "rate_0.4": ["--learning_rate=0.4"],
    "batch_64": ["--images_per_worker=64"],
    "weight_decay_5e-4": ["--weight_decay=5e-4"],
    "no_label_smoothing": ["--label_smoothing=0"],
    "width_32": ["--width=32"],
    "depth_14": ["--depth=14"],
    "twice_as_long": ["--epochs=32", "--decay_epochs=16,24"],
    "random_starts": ["--start_from_clean=0"],
}


def all_runs() -> list[Run]:
    """Every run, in the order in which they are made."""
    runs = []
    for name, flags in SEARCH.items():
        train = ["--flagfile=flags/study/start.flags", *flags]
        runs.append(_run("search", name, 0, train, ["--limit=2000"]))
    return sorted(runs, key=lambda run: run.seed)


def _run(part, name, seed, train, evaluate, first=None):
    return Run(
        f"{part}/{name}/seed{seed}",
        seed,
        (*train, f"--seed={seed}"),
        ("--flagfile=flags/study/protocol.flags", f"--seed={seed}", *evaluate),
        first,
    )


def make(run: Run, runs: dict[str, Run]) -> None:
    """Trains, evaluates and inspects, or goes on where this was stopped, and copies the results."""
    seconds = {}
    if run.first is not None:
        _train(runs[run.first])  # nothing, if its network is there
    seconds["train"] = _train(run)
    started = time.monotonic()
    _program("evaluate", f"--run_dir={run.directory}", *run.evaluate)
    seconds["evaluate"] = time.monotonic() - started
    if "--norm=gn" not in run.train and run.name.startswith("study/"):
        _program("inspect", f"--run_dir={run.directory}")
    run.results.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (run.directory / name).is_file():
            text = (run.directory / name).read_text(encoding="utf-8")
            (run.results / Path(name).name).write_text(
                text.replace(f"{ROOT}/", ""), encoding="utf-8"
            )
    rounded = {name: round(value) for name, value in seconds.items()}
    cost = {"seconds": rounded, "cores": len(os.sched_getaffinity(0))}
    (run.results / "cost.json").write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")


def _train(run):
    """Trains unless there is a finished network; returns the seconds, with earlier parts."""
    if (run.directory / "model.keras").is_file():
        return _log_seconds(run)
    if run.directory.is_dir() and not (run.directory / "flags.txt").is_file():
        shutil.rmtree(run.directory)
    resume = ["--resume"] if run.directory.is_dir() else []
    _program("train", f"--run_dir={run.directory}", *run.train, *resume)
    return _log_seconds(run)


def _log_seconds(run):
    lines = (run.directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("seconds", 0) for line in lines)


def _program(name, *arguments):
    command = [sys.executable, "-m", f"tfadv.{name}", *arguments]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    with open(RUNS / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command[1:])}\n")
        log.flush()
        process = subprocess.run(command, env=environment, stdout=log, stderr=log)
    if process.returncode:
        raise SystemExit(
            f"study: {' '.join(command[1:])} ended with status {process.returncode}; "
            f"its last words are in {RUNS / 'log.txt'}"
        )


def left(missing: list[Run], runs: list[Run]) -> str:
    """Estimates the time that the missing runs take, from those that are done."""
    costs = {}
    for run in runs:
        if run.is_done:
            cost = json.loads((run.results / "cost.json").read_text(encoding="utf-8"))
            costs.setdefault(run.name.rpartition("/")[0], []).append(sum(cost["seconds"].values()))
    if not costs:
        return "time unknown"
    usual = statistics.median(seconds for each in costs.values() for seconds in each)
    total = sum(
        statistics.median(costs.get(run.name.rpartition("/")[0], [usual])) for run in missing
    )
    hours, minutes = divmod(round(total / 60), 60)
    return f"about {hours}:{minutes:02} h left"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show the runs, and make none")
    parser.add_argument("names", nargs="*", help="beginnings of names, which may hold * and ?")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    runs = all_runs()
    patterns = options.names or ["study/", "map/"]
    chosen = [run for run in runs if any(fnmatch.fnmatch(run.name, f"{p}*") for p in patterns)]
    if not chosen:
        parser.error(f"names must be beginnings of names of runs; received {options.names}")
    missing = [run for run in chosen if not run.is_done]
    if options.list:
        for run in chosen:
            print(f"{'done' if run.is_done else '    '}  {run.name}  {' '.join(run.train)}")
    RUNS.mkdir(parents=True, exist_ok=True)
    print(f"study: {len(chosen) - len(missing)} of {len(chosen)} runs done; {left(missing, runs)}")
    by_name = {run.name: run for run in runs}
    while missing and not options.list:
        run = missing.pop(0)
        print(f"study: {run.name}", flush=True)
        make(run, by_name)
        done = len(chosen) - len(missing)
        print(f"study: {done} of {len(chosen)} runs done; {left(missing, runs)}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("study: stopped; the same command goes on")
