"""Weak scaling over Horovod's workers on this machine: `python -m benchmarks.workers`.

Each worker has one thread, and each its own images: the more workers, the more images. As many as
there are cores train for real, in turns with two single workers that know nothing of each other:
what the machine has to give. Beyond the cores, and for the few as well, all arithmetic is replaced
by a wait: gradients of the same size, the collective operation and its waiting for each other stay
what they are. All train by `fit` with `AdversarialTraining`.
"""

import os
import statistics

from benchmarks import measuring
from benchmarks.worker_group import Group

COUNTS = (1, 2, 4, 8)
REQUIRED = 1.9
WAIT = 1.0  # seconds
APART = "2, apart"
NETWORK = dict(depth=20, images=32, num_steps=10)  # as the quickstart


class Apart:
    """Two groups of one worker, each on its core, which train at the same time."""

    def __init__(self, **settings):
        self._groups = [Group(1, core=core, **settings) for core in (0, 1)]

    def turn(self):
        """Seconds of each update of a pair as fast as both together."""
        for group in self._groups:
            group.start()
        both = [group.finish() for group in self._groups]
        return [2 / (1 / a + 1 / b) for a, b in zip(*both, strict=True)]

    def end(self):
        return [group.end() for group in self._groups][0]


def measure(counts, rounds, label, **settings):
    """Seconds of every update, by number of workers, and what the workers found at the end."""
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
        # Images of N workers in a second, over those of one.
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
    most = max(2, len(os.sched_getaffinity(0)))  # what is required is of two
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
        f"at least {settings['required']} is required. Two that know nothing of each other: "
        f"{words['arithmetic, apart', 2]}.\n\n"
        + measuring.markdown_table(heading, rows)
        + f"\nSmallResNet-{settings['depth']} for 32x32 pixels, PGD-{settings['num_steps']}, "
        f"{settings['images']} images a worker and update, 100% adv + 100% clean; an update sends "
        f"{report['results'][0]['reductions']['bytes'] / 1e6:.2f} MB. Where it waits, it does so "
        f"for {settings['wait_seconds']:g} s in the place of all arithmetic. Communication is what "
        f"TensorBoard shows as communication_share, waiting for the slower worker included.\n"
    )


if __name__ == "__main__":
    measuring.main("workers", run, table, packages=["horovod"])
