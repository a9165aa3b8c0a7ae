"""Runs what is missing of the study: the paper's findings on Fashion-MNIST, on one machine.

    make study                              all runs that have no results yet
    make study ARGS="study/mbn map/*gn*"    those whose names begin so, in this order
    make study ARGS="--list"                what there is, and the time that is left
    make study ARGS="--report"              the report on what there is
    python tools/study.py [--list] [--report] [names]

A run is trained, evaluated and inspected in `runs/study/NAME`, and its results are copied to
`docs/study/results/NAME`, which is what counts as done. It can be stopped at any time, and goes on
where it stopped. Each core makes runs of its own (`--jobs`). The five main strategies come first,
and then all runs of a seed before those of the next. The search for the recipe (`search/...`) runs
only when it is named. At the end, `docs/study/report.md` and `docs/study/runs.md` are rewritten.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = Path("runs/study"), Path("docs/study/results")
REPORT = Path("docs/study")
CORES = len(os.sched_getaffinity(0))
# Names of further evaluations of a network, by their files.
_ALSO = {"evaluation-2000.json": ", PGD-2000", "evaluation-autoattack.json": ", AutoAttack"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a network, and the training that comes first.

    Attributes:
        name: Such as `"study/mbn/seed0"`, also of the directories.
        seed: The seed of the training and of the evaluation.
        train: Flags of `tfadv.train`.
        evaluate: Flags of `tfadv.evaluate`.
        first: The name of the run whose network the training starts from, or None.
        inspect: Whether the statistics of the network are kept.
        output: The name of the file of results.
    """

    name: str
    seed: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    first: str | None = None
    inspect: bool = False
    output: str = "evaluation.json"

    @property
    def directory(self) -> Path:
        return RUNS / self.name

    @property
    def results(self) -> Path:
        return RESULTS / self.name

    @property
    def kind(self) -> str:
        """What its cost depends on."""
        return f"{self.name.rpartition('/')[0]} {self.output}"

    @property
    def cost(self) -> Path:
        return self.results / self.output.replace("evaluation", "cost")

    @property
    def is_done(self) -> bool:
        return self.cost.is_file()


# One change of the start each. The rate mattered by far the most, so its search went on to higher
# ones. The best of them was unsteady over seeds, so an amendment compares steadier ones.
SEARCH = {
    "start": [],
    "rate_0.1": ["--learning_rate=0.1"],
    "rate_0.4": ["--learning_rate=0.4"],
    "batch_64": ["--images_per_worker=64"],
    "rate_0.8": ["--learning_rate=0.8"],
    "rate_1.6": ["--learning_rate=1.6"],
    "weight_decay_5e-4": ["--weight_decay=5e-4"],
    "rate_0.4_long": ["--learning_rate=0.4", "--steps_per_epoch=64"],
}

# Further seeds compare these.
_BEST = ("rate_0.4", "rate_0.8", "rate_0.4_long")

MAIN = {
    "bn": [],
    "bn_apart": ["--batch_statistics=apart"],
    "adversarial_only": ["--clean_ratio=0"],
    "mbn": ["--norm=mbn"],
    "gn": ["--norm=gn"],
}

# Separate or shared affine parameters x separate or shared statistics; `bn` and `mbn` are the rest.
PARTS_OF_MIXTURE = {
    "mbn_shared_affine": ["--norm=mbn", "--affine=shared"],
    "mbn_shared_statistics": ["--norm=mbn", "--statistics=shared"],
    "mbn_shared_statistics_apart": [
        *("--norm=mbn", "--statistics=shared", "--batch_statistics=apart")
    ],
}

# One axis at a time from the recipe, with the step sizes of the evaluation where they change too.
AXES = {
    "recipe": ([], []),
    "epsilon16": (["--epsilon=16", "--step_size=2"], ["--step_size=2"]),
    "epsilon32": (["--epsilon=32", "--step_size=4"], ["--step_size=4"]),
    "epsilon64": (["--epsilon=64", "--step_size=8"], ["--step_size=8"]),
    "pgd3": (["--num_steps=3", "--step_size=20"], []),
    "pgd5": (["--num_steps=5", "--step_size=12"], []),
    "batch32": (["--images_per_worker=32"], []),
    "batch64": (["--images_per_worker=64"], []),
    "mosaics": (["--dataset=fashion_mosaics_dev"], []),
}

_ALP, _LAST = ["--pairing_weight=0.5"], ["--running_statistics=2"]
OTHERS = {
    **{f"clean{r}": [f"--clean_ratio=0.{r // 10}"] for r in (80, 60, 40, 20)},
    **{
        f"clean{r}_apart": [f"--clean_ratio=0.{r // 10}", "--batch_statistics=apart"]
        for r in (80, 60, 40, 20)
    },
    "clean_only": ["--adversarial=false"],
    "alp": _ALP,
    "mbn_alp": ["--norm=mbn", *_ALP],
    "ln": ["--norm=ln"],
    "in": ["--norm=in"],
    "bn_running": _LAST,
    "bn_apart_running": ["--batch_statistics=apart", *_LAST],
    "adversarial_only_running": ["--clean_ratio=0", *_LAST],
    "alp_running": [*_ALP, *_LAST],
    "mbn_running": ["--norm=mbn", *_LAST],
    "mbn_alp_running": ["--norm=mbn", *_ALP, *_LAST],
    **PARTS_OF_MIXTURE,
    **{
        f"{name}_depth{depth}": [flag, f"--depth={depth}"]
        for name, flag in (("adversarial_only", "--clean_ratio=0"), ("clean", "--adversarial=0"))
        for depth in (14, 20, 26, 32)
    },
}

# Section 4.4: the normalization alone is fine-tuned on images of the other domain.
FINE_TUNED = {
    "adversarial_only_on_clean": ("adversarial_only", ["--adversarial=false"]),
    "clean_only_on_adversarial": ("clean_only", ["--clean_ratio=0"]),
}
# Those with batch normalization.
_INSPECTED = ("bn", "bn_apart", "adversarial_only", "mbn", "clean_only")

# A run that fails is no reason to stop overnight, but several are.
_MOST_FAILURES = 2

# It would take half an hour for all 10,000 images of a robust network.
_AUTOATTACK = ("--attack=autoattack", "--images_per_worker=250", "--limit=1000")


def all_runs() -> list[Run]:
    """Every run, in the order in which they are made."""
    runs = [
        _run("search", name, seed, ["start", *flags], ["--limit=2000"])
        for name, flags in SEARCH.items()
        for seed in range(3 if name in _BEST else 1)
    ]
    main = [
        _run("study", name, seed, ["recipe", *flags])
        for seed in range(3)
        for name, flags in MAIN.items()
    ]
    autoattack = [_again(run, "autoattack", f"--seed={run.seed}", *_AUTOATTACK) for run in main]
    # It needs four times as long as all others together.
    strong = [_again(run, "2000", *run.evaluate[:2], "--num_steps=2000") for run in main]
    others = []
    for seed in range(2):
        others += [_run("study", name, seed, ["recipe", *flags]) for name, flags in OTHERS.items()]
        others += [
            _run(
                *("study", name, seed, ["recipe", "--trainable=norm", *flags]),
                first=f"study/{first}/seed{seed}",
            )
            for name, (first, flags) in FINE_TUNED.items()
        ]
        for axis, (changes, evaluate) in AXES.items():
            parts = PARTS_OF_MIXTURE if axis == "recipe" else {}
            for name, flags in (MAIN | parts).items():
                train = ["recipe", "--dataset=fashion_mnist_dev", *flags, *changes]
                others.append(
                    _run("map", f"{axis}-{name}", seed, train, ["--limit=2000", *evaluate])
                )
    return [*runs, *main, *autoattack, *sorted(others, key=lambda run: run.seed), *strong]


def _again(run, name, *evaluate):
    """A run's network evaluated in another way."""
    output = f"evaluation-{name}.json"
    return dataclasses.replace(run, evaluate=evaluate, output=output, inspect=False)


def _run(part, name, seed, train, evaluate=(), first=None):
    flagfile, *train = train
    domain = ["--domain=both"] if "--norm=mbn" in train else []
    return Run(
        f"{part}/{name}/seed{seed}",
        seed,
        (f"--flagfile=flags/study/{flagfile}.flags", *train, f"--seed={seed}"),
        ("--flagfile=flags/eval/study.flags", f"--seed={seed}", *domain, *evaluate),
        first,
        inspect=part == "study" and name in _INSPECTED,
    )


# By names of runs.
_TRAINING = collections.defaultdict(threading.Lock)
_RUNNING: set[subprocess.Popen] = set()
_STOPPED = threading.Event()
# A network of 8 layers is as fast on one core as on two.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}


def make(run: Run, runs: dict[str, Run]) -> None:
    """Trains, evaluates and inspects, or goes on where this was stopped, and copies the results."""
    seconds = {}
    for each in filter(None, (runs.get(run.first), run)):
        # Two evaluations of one network, or two networks that start from it, may be made at once.
        with _TRAINING[each.name]:
            seconds["train"] = _train(each, runs)  # nothing, if its network is there
    started = time.monotonic()
    output = run.directory / run.output
    _program("evaluate", f"--run_dir={run.directory}", f"--output={output}", *run.evaluate)
    seconds["evaluate"] = time.monotonic() - started
    if run.inspect:
        _program("inspect", f"--run_dir={run.directory}")
    run.results.mkdir(parents=True, exist_ok=True)
    figures = ("figure5.png", "figure6.png") if run.seed == 0 else ()
    kept = [run.output, "flags.txt"]
    if run.inspect:
        kept += [f"inspection/{name}" for name in ("statistics.csv", *figures)]
    for path in (run.directory / name for name in kept):
        if path.is_file():  # only mixtures have a Figure 5
            content = path.read_bytes().replace(f"{ROOT}/".encode(), b"")
            (run.results / path.name).write_bytes(content)
    rounded = {name: round(value) for name, value in seconds.items()}
    cost = {"seconds": rounded, "cores": int(_ENVIRONMENT["TF_NUM_INTRAOP_THREADS"])}
    # At once, as another job may read it at any time.
    partial = run.cost.with_suffix(".partial")
    partial.write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")
    partial.replace(run.cost)


def _train(run, runs):
    """Trains unless there is a finished network; returns the seconds, with earlier parts."""
    if (run.directory / "model.keras").is_file():
        return _log_seconds(run)
    if run.directory.is_dir() and not (run.directory / "flags.txt").is_file():
        shutil.rmtree(run.directory)
    more = ["--resume"] if run.directory.is_dir() else []
    if run.first is not None:
        more.append(f"--init_from={runs[run.first].directory}")
    _program("train", f"--run_dir={run.directory}", *run.train, *more)
    return _log_seconds(run)


def _log_seconds(run):
    lines = (run.directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("seconds", 0) for line in lines)


def _program(name, *arguments):
    if _STOPPED.is_set():
        raise SystemExit("study: stopped")
    command = [sys.executable, "-m", f"tfadv.{name}", *arguments]
    path = RUNS / f"log-{threading.current_thread().name}.txt"
    with open(path, "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command[1:])}\n")
        log.flush()
        environment = {**_ENVIRONMENT, **os.environ}
        with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
            _RUNNING.add(process)
            if _STOPPED.is_set():
                process.terminate()
        _RUNNING.discard(process)
    if process.returncode:
        raise SystemExit(
            f"study: {' '.join(command[1:])} ended with status {process.returncode}; "
            f"its last words are in {path}"
        )


def make_all(
    missing: list[Run], runs: list[Run], jobs: int
) -> Iterator[tuple[Run, SystemExit | None]]:
    """Makes runs, `jobs` at a time; yields each one when it is done, with why it failed or None."""
    by_name = {run.name: run for run in runs}
    pool = concurrent.futures.ThreadPoolExecutor(jobs, thread_name_prefix="job")
    futures = {pool.submit(make, run, by_name): run for run in missing}
    try:
        for future in concurrent.futures.as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, SystemExit):
                stop()
                raise error
            yield futures[future], error
    finally:
        # The programs that still run have been asked to end, by Ctrl-C in a terminal or by `stop`.
        _STOPPED.set()
        pool.shutdown(cancel_futures=True)
        _STOPPED.clear()


def stop(number: int | None = None, frame: object = None) -> None:
    """Asks all programs to end; as a signal's handler it ends the study too, as Ctrl-C does."""
    _STOPPED.set()
    for process in tuple(_RUNNING):
        process.terminate()
    if number is not None:
        raise KeyboardInterrupt


def left(missing: list[Run], runs: list[Run], jobs: int) -> str:
    """Estimates the time that the missing runs take, from those that are done."""
    costs = {}
    for run in runs:
        if run.is_done:
            cost = json.loads(run.cost.read_text(encoding="utf-8"))
            costs.setdefault(run.kind, []).append(sum(cost["seconds"].values()))
    if not costs:
        return "time unknown"
    usual = statistics.median(seconds for each in costs.values() for seconds in each)
    total = sum(statistics.median(costs.get(run.kind, [usual])) for run in missing) / jobs
    hours, minutes = divmod(round(total / 60), 60)
    return f"about {hours}:{minutes:02} h left"


def page(runs: list[Run]) -> str:
    """The page `runs.md`: the search for the recipe, the map at a glance, and what runs cost."""
    found, costs = [], {}
    for run in filter(lambda run: run.is_done, runs):
        cost = json.loads(run.cost.read_text(encoding="utf-8"))["seconds"]
        costs.setdefault(run.kind, []).append(cost)
        if run.name.startswith("search/"):
            document = json.loads((run.results / run.output).read_text(encoding="utf-8"))
            found.append(
                [run.name.removeprefix("search/"), " ".join(run.train[1:-1]), document["results"]]
            )
    parts = ["# Runs of the study"]
    if found:
        heads = ["run", "what differs", *(result["name"] for result in found[0][2])]
        rows = [
            [name, f"`{flags}`" if flags else "", *(f"{100 * r['accuracy']:.1f}" for r in results)]
            for name, flags, results in found
        ]
        total = found[0][2][0]["total"]
        parts += [
            "## The search for the recipe",
            "Training without clean images, with `flags/study/start.flags` and one change; "
            f"accuracy in percent on {total} training images that were held out.",
            _table(heads, rows),
        ]
    if any(run.is_done and run.name.startswith("map/") for run in runs):
        parts += [
            "## The map at a glance",
            "Percent of 2,000 held-out images that are right under PGD-500, and in parentheses the "
            "change from PGD-10; means over seeds, of a mixture through its adv branch. "
            "[The report](report.md) has every run with its spread.",
            _map(runs),
        ]
    rows = []
    for kind, seconds in costs.items():
        name, _, output = kind.partition(" ")
        name += _ALSO.get(output, "")
        medians = (statistics.median(each[step] for each in seconds) for step in seconds[0])
        rows.append([name, f"{len(seconds)}", *(f"{median:.0f}" for median in medians)])
    parts += [
        "## What they cost",
        "Medians over seeds. The search had two cores for each run, the study and the map one, "
        "beside other work. An evaluation that was stopped counts its last part.",
        _table(["run", "seeds", "training (s)", "evaluation (s)"], rows),
    ]
    return "\n\n".join(parts) + "\n"


def _map(runs):
    """A row for each point on an axis, a column for each strategy."""
    cells: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        part, name, _ = run.name.split("/")
        if part == "map" and run.is_done:
            document = json.loads((run.results / run.output).read_text(encoding="utf-8"))
            accuracy = {
                result["name"]: 100 * result["accuracy"]
                for result in document["results"]
                if result["domain"] != "clean"
            }
            pair = (accuracy["PGD-500"], accuracy["PGD-500"] - accuracy["PGD-10"])
            cells.setdefault(name, []).append(pair)
    strategies = [*MAIN, *PARTS_OF_MIXTURE]
    rows = []
    for axis, (changes, _) in AXES.items():
        texts = []
        for strategy in strategies:
            pairs = cells.get(f"{axis}-{strategy}")
            means = [statistics.fmean(each) for each in zip(*pairs, strict=True)] if pairs else []
            texts.append("{:.1f} ({:+.1f})".format(*means) if pairs else "")
        rows.append([f"`{' '.join(changes)}`" if changes else "the recipe", *texts])
    return _table(["what differs", *strategies], rows)


def _table(heads, rows):
    rule = [":--" if head in ("run", "what differs") else "--:" for head in heads]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show the runs, and make none")
    parser.add_argument("--report", action="store_true", help="write the report, and make no runs")
    parser.add_argument("names", nargs="*", help="beginnings of names, which may hold * and ?")
    parser.add_argument("--jobs", type=int, default=CORES, help="runs at a time, one for each core")
    options = parser.parse_args(arguments)
    jobs = options.jobs
    if jobs < 1:
        parser.error(f"--jobs must be at least 1; received {jobs}")
    os.chdir(ROOT)
    runs = all_runs()
    chosen = [run for run in runs if not run.name.startswith("search/")]
    if options.names:
        found = (run for n in options.names for run in runs if fnmatch.fnmatch(run.name, f"{n}*"))
        chosen = list(dict.fromkeys(found))
    if not chosen:
        parser.error(f"names must be beginnings of names of runs; received {options.names}")
    missing = [run for run in chosen if not run.is_done]
    if options.list:
        for run in chosen:
            print(f"{'done' if run.is_done else '    '}  {run.name}  {' '.join(run.train)}")
    RUNS.mkdir(parents=True, exist_ok=True)

    def progress(words):
        done = len(chosen) - len(missing)
        time_left = left(missing, runs, jobs)
        print(f"study: {words}{done} of {len(chosen)} runs done; {time_left}", flush=True)

    progress("")
    failed: list[str] = []
    if not (options.list or options.report):
        for run, error in make_all(list(missing), runs, jobs):
            if error is None:
                missing.remove(run)
                progress(f"{run.name} {run.output}; ")
                continue
            print(error, file=sys.stderr, flush=True)
            failed.append(f"{run.name} {run.output}")
            if len(failed) > _MOST_FAILURES:
                stop()
                raise SystemExit(f"study: {len(failed)} runs failed; the same command goes on")
    reported = [str(part) for part in (RESULTS / "study", RESULTS / "map") if part.is_dir()]
    if reported and not options.list:
        _program("report", *reported, f"--output={REPORT}")
        (REPORT / "runs.md").write_text(page(runs), encoding="utf-8")
        print(f"study: the report is {REPORT / 'report.md'}")
    if failed:
        raise SystemExit(f"study: failed: {', '.join(failed)}; the same command tries them again")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)  # so that no program goes on alone
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("study: stopped; the same command goes on")
