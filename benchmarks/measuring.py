"""The parts that all benchmarks share: turns, ratios, the machine, the JSON, the command line.

A benchmark is one module of this folder and one line in `performance.BENCHMARKS`:

    def run(options):                      # options.quick: few rounds, for trying it out
        turns = measuring.rounds(options, 15)
        seconds = measuring.interleaved({"ours": attack, "floor": forward_and_gradient}, turns)
        ratio = measuring.ratio(seconds, "ours", "floor")     # {"min", "median", "max", "rounds"}
        return {"settings": {...}, "results": [{..., "seconds": seconds, "ratio": ratio}]}

    def table(report):                     # the report, read back from JSON
        return measuring.markdown_table(["what", "required", "reached"], rows)

    if __name__ == "__main__":
        measuring.main("NAME", run, table, packages=["foolbox"])

`python -m benchmarks.NAME` then writes results/NAME.json, which holds the machine, the versions and
what `run` returned, and puts the table, with a line on the machine below it, between the markers
`<!-- NAME -->` and `<!-- end -->` of docs/performance.md. With `--quick` it prints them and writes
nothing; with `--machine=h200` the file and the marker are called NAME.h200, so that another
machine's numbers stand beside the usual one's. Progress goes to stderr.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

from benchmarks.hardware import load_average, machine

RESULTS = pathlib.Path(__file__).parent / "results"


def progress(*words):
    """Prints a benchmark's progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')}", *words, file=sys.stderr, flush=True)


def interleaved(
    contestants,
    rounds,
    *,
    warm_up=2,
    seconds_per_turn=0.0,
    own_clock=False,
    patience=math.inf,
    label="",
    clock=time.perf_counter,
):
    """Measures contestants in turns: A B C, then C B A, then A B C ...

    So other work on the machine, and its temperature, affect all of them alike.

    Args:
        contestants: Dictionary, name -> function without arguments that returns when its work is
            done (on a GPU: it reads a result with `.numpy()`).
        rounds: Number of turns of each contestant.
        warm_up: Unmeasured calls of each before the first round, which trace and fill caches.
        seconds_per_turn: A quicker contestant is called several times in a turn, as often as it
            takes to last this long, judging by its last warm-up call.
        own_clock: Whether contestants return their own seconds, such as those of a child process.
        patience: Seconds. A contestant whose calls, including warm-up, have taken longer than this
            sits out the remaining rounds, but never the first: a hopelessly slow one is still
            measured, but does not hold up the others.
        label: Name of this measurement on stderr; if empty, nothing is printed.
        clock: Function that returns seconds.

    Returns:
        Dictionary, name -> seconds per call, one number for each round that it took part in.
    """

    spent = dict.fromkeys(contestants, 0.0)

    def turn(name, calls):
        start = clock()
        own = [contestants[name]() for _ in range(calls)]
        seconds = sum(own) if own_clock else clock() - start
        spent[name] += seconds
        return seconds / calls

    calls = dict.fromkeys(contestants, 1)
    for name in contestants:
        for _ in range(warm_up):
            once = turn(name, 1)
            if spent[name] > patience:
                break
        if warm_up and seconds_per_turn:
            calls[name] = max(1, math.ceil(seconds_per_turn / max(once, 1e-9)))
        if label:
            progress(f"{label}: {name} is warm")
    seconds = {name: [] for name in contestants}
    for number in range(rounds):
        order = list(contestants) if number % 2 == 0 else list(reversed(contestants))
        for name in order:
            if number == 0 or spent[name] <= patience:
                seconds[name].append(turn(name, calls[name]))
        if label:
            latest = ", ".join(
                f"{name} {values[-1]:.4g}"
                for name, values in seconds.items()
                if len(values) == number + 1
            )
            progress(f"{label}: round {number + 1} of {rounds}, seconds: {latest}")
    return seconds


def spread(values):
    """Returns `{"min", "median", "max", "rounds"}` of numbers, one for each round."""
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "rounds": len(values),
    }


def ratio(seconds, of, to):
    """Returns the spread of one contestant's time over another's in the same round.

    Above 1, `of` takes longer: `ratio(seconds, "theirs", "ours")` is how many times as fast ours
    is, and `ratio(seconds, "ours", "floor")` how many times the floor's time it takes. Only rounds
    that both took part in count.
    """
    return spread([a / b for a, b in zip(seconds[of], seconds[to], strict=False)])


def rounds(options, number):
    """Returns the number of rounds: `--rounds` if given, else few with `--quick`, else `number`."""
    return options.rounds or (2 if options.quick else number)


def in_words(values, digits=2):
    """Formats a spread as `median (min to max)`."""
    return (
        f"{values['median']:.{digits}f} ({values['min']:.{digits}f} to {values['max']:.{digits}f})"
    )


def markdown_table(heading, rows):
    """Returns a Markdown table; all columns but the first are aligned to the right."""
    lines = [heading, ["---"] + ["--:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def main(name, run, table, *, packages=(), arguments=None, argv=None):
    """Runs the command line of a benchmark, which this module's docstring describes.

    Args:
        name: Name of results/NAME.json and of the marker in docs/performance.md.
        run: Function, options -> dictionary with at least `results`.
        table: Function, report -> Markdown.
        packages: As for `machine`.
        arguments: Function that adds the benchmark's own options to an `argparse` parser.
        argv: Arguments to use instead of the command line's.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="Take few rounds; write no file.")
    parser.add_argument("--rounds", type=int, help="Number of rounds, instead of the usual one.")
    parser.add_argument("--machine", help="Name of this machine in its file and its marker.")
    parser.add_argument("--note", help="Sentence about the machine, to print below the table.")
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args(argv)
    # Must be read before TensorFlow starts its threads, which would count.
    start = load_average()
    name += f".{options.machine}" if options.machine else ""
    report = {"benchmark": name, "machine": machine(packages), **run(options)}
    report["machine"]["note"] = options.note
    report["machine"]["load_average"] = {"start": start, "end": load_average()}
    # The table gets the report as it is read back: keys as strings, tuples as lists.
    report = json.loads(json.dumps(report))
    from benchmarks import performance

    if options.quick:
        print(performance.section(report, table))
        return
    write(report)
    performance.rewrite({name: performance.section(report, table)})
    progress(f"wrote {RESULTS.name}/{name}.json and the table of docs/performance.md")


def write(report):
    """Writes a report as results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1) + "\n"
    (RESULTS / f"{report['benchmark']}.json").write_text(text, encoding="utf-8")


def read(name):
    """Returns the report in results/NAME.json; None if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
