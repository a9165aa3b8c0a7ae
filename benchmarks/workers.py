"""Weak scaling over Horovod's workers on this machine: `python -m benchmarks.workers`.

Each worker has one thread, and each its own images: the more workers, the more images. Groups of
1 and 2 workers, a core each, train for real, in turns. Beyond the cores, and for 1 and 2 as well,
all arithmetic is replaced by a wait: gradients of the same size, the collective operation and its
waiting for each other stay what they are. All train by `fit` with `AdversarialTraining`.
"""

import statistics

from benchmarks import measuring
from benchmarks.worker_group import Group

COUNTS = (1, 2, 4, 8)
REQUIRED = 1.9
WAIT = 1.0  # seconds
NETWORK = dict(depth=20, images=16, num_steps=5)


def measure(counts, rounds, label, **settings):
    """Seconds of every update, by number of workers, and what the workers found at the end."""
    groups, updates = {}, {}
    for count in counts:
        groups[count] = Group(count, measure=count == 1 and settings["wait"] is None, **settings)
        updates[count] = []
        measuring.progress(f"{label}: {count} workers are warm")

    def turn(count):
        seconds = groups[count].turn()
        updates[count].append(seconds)
        return statistics.median(seconds)

    contestants = {count: (lambda count=count: turn(count)) for count in counts}
    seconds = measuring.interleaved(
        contestants, rounds, warm_up=0, own_clock=True, label=f"{label}, by workers"
    )
    ends = {count: groups[count].end() for count in counts}
    return [
        {
            "stage": label,
            "workers": count,
            "seconds": seconds[count],
            "updates": updates[count],
            # Images of N workers in a second, over those of one.
            "times_one": measuring.spread(
                [count * a / b for a, b in zip(seconds[1], seconds[count], strict=True)]
            ),
            **ends[count][0],
        }
        for count in counts
    ]


def run(options):
    rounds = measuring.rounds(options, 9)
    settings = {**NETWORK, "updates": 2 if options.quick else 3}
    return {
        "settings": {**settings, "required": REQUIRED, "wait_seconds": WAIT},
        "results": [
            *measure(COUNTS[:2], rounds, "arithmetic", wait=None, **settings),
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
        rows.append(
            [
                result["stage"],
                count,
                measuring.in_words(measuring.spread(result["seconds"]), 3),
                measuring.in_words(result["times_one"]),
                f"{result['times_one']['median'] / count:.0%}",
                f"{result['communication_share']:.1%}" if count > 1 else "",
                f"{1e3 * result['reductions']['all']:.1f}" if count > 1 else "",
            ]
        )
    two = next(r for r in report["results"] if r["stage"] == "arithmetic" and r["workers"] == 2)
    words = measuring.in_words(two["times_one"])
    return (
        f"2 workers of one thread against one: {words} times the images a second; at least "
        f"{settings['required']} is required.\n\n"
        + measuring.markdown_table(heading, rows)
        + f"\nSmallResNet-{settings['depth']} for 32x32 pixels, PGD-{settings['num_steps']}, "
        f"{settings['images']} images a worker and update, 100% adv + 100% clean; an update sends "
        f"{report['results'][0]['reductions']['bytes'] / 1e6:.2f} MB. Where it waits, it does so "
        f"for {settings['wait_seconds']:g} s in the place of all arithmetic. Communication is what "
        f"TensorBoard shows as communication_share, waiting for the slower worker included.\n"
    )


if __name__ == "__main__":
    measuring.main("workers", run, table, packages=["horovod"])
