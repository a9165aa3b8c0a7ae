"""Weak scaling over Horovod's workers on this machine: `python -m benchmarks.workers`.

Each worker has one thread and its own images, so more workers train on more images. As many workers
as there are cores train for real, in turns with two independent single workers, which show what the
machine can give. In a second stage, which also has more workers than cores, a wait replaces all
arithmetic; the size of the gradients, the collective operation and its waiting for the slowest stay
the same. All train with `fit` and `AdversarialTraining`.
"""

import os
import statistics

from benchmarks import measuring
from benchmarks.worker_group import Group

COUNTS = (1, 2, 4, 8)
REQUIRED = 1.9
WAIT = 1.0  # seconds
APART = "2, apart"
NETWORK = dict(depth=20, images=32, num_steps=10)  # as in the quickstart


class Apart:
    """Two groups of one worker, each on its own core, which train at the same time."""

    def __init__(self, **settings):
        self._groups = [Group(1, core=core, **settings) for core in (0, 1)]

    def turn(self):
        """Returns the seconds of each update: the harmonic mean of the two groups'."""
        for group in self._groups:
            group.start()
        both = [group.finish() for group in self._groups]
        return [2 / (1 / a + 1 / b) for a, b in zip(*both, strict=True)]

    def end(self):
        return [group.end() for group in self._groups][0]


def measure(counts, rounds, label, **settings):
    """Measures every update's seconds by number of workers; adds rank 0's own results."""
    arithmetic = settings["wait"] is None
    groups = {}
    for count in counts:
        groups[count] = Group(count, core=0, measure=arithmetic and count == 1, **settings)
        measuring.progress(f"{label}: {count} workers are warm")
    if arithmetic:
        groups[APART] = Apart(measure=False, **settings)
    updates = {name: [] for name in groups}

    def turn(name):
        seconds = groups[name].turn()
        updates[name].append(seconds)
        return statistics.median(seconds)

    contestants = {name: (lambda name=name: turn(name)) for name in groups}
    seconds = measuring.interleaved(
        contestants, rounds, warm_up=0, own_clock=True, label=f"{label}, by workers"
    )
    results = []
    for name, group in groups.items():
        measuring.progress(f"{label}: {name} workers end")
        count = 2 if name == APART else name
        # Images a second of N workers, over those of one.
        times_one = [count * a / b for a, b in zip(seconds[1], seconds[name], strict=True)]
        results.append(
            {
                "stage": f"{label}, apart" if name == APART else label,
                "workers": count,
                "seconds": seconds[name],
                "updates": updates[name],
                "times_one": measuring.spread(times_one),
                **group.end()[0],
            }
        )
    return results


def run(options):
    rounds = measuring.rounds(options, 9)
    most = max(2, len(os.sched_getaffinity(0)))  # the requirement is about two
    settings = {**NETWORK, "updates": 2 if options.quick else 3}
    return {
        "settings": {**settings, "required": REQUIRED, "wait_seconds": WAIT},
        "results": [
            *measure([n for n in COUNTS if n <= most], rounds, "arithmetic", wait=None, **settings),
            *measure(COUNTS, min(rounds, 5), "wait", wait=WAIT, **settings),
        ],
    }


def table(report):
    settings = report["settings"]
    heading = ["stage", "workers", "seconds an update", "images a second, times one worker's"]
    heading += ["of N", "communication", "all-reduce alone, ms"]
    rows = []
    for result in report["results"]:
        count = result["workers"]
        talking = count > 1 and not result["stage"].endswith("apart")
        rows.append(
            [
                result["stage"],
                count,
                measuring.in_words(measuring.spread(result["seconds"]), 3),
                measuring.in_words(result["times_one"]),
                f"{result['times_one']['median'] / count:.0%}",
                f"{result['communication_share']:.1%}" if talking else "",
                f"{1e3 * result['reductions']['all']:.1f}" if talking else "",
            ]
        )
    words = {
        (result["stage"], result["workers"]): measuring.in_words(result["times_one"])
        for result in report["results"]
    }
    return (
        f"2 workers of one thread against one: {words['arithmetic', 2]} times the images a second; "
        f"at least {settings['required']} is required. Two independent ones reach "
        f"{words['arithmetic, apart', 2]}.\n\n"
        + measuring.markdown_table(heading, rows)
        + f"\nSmallResNet-{settings['depth']} for 32x32 pixels, PGD-{settings['num_steps']}, "
        f"{settings['images']} images a worker and update, 100% adv + 100% clean; an update sends "
        f"{report['results'][0]['reductions']['bytes'] / 1e6:.2f} MB. In the stage `wait`, a wait "
        f"of {settings['wait_seconds']:g} s replaces all arithmetic. Communication is "
        f"TensorBoard's communication_share, which includes waiting for the slower worker.\n"
    )


if __name__ == "__main__":
    measuring.main("workers", run, table, packages=["horovod"])
