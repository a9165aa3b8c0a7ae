"""The kills of `make chaos`: what there is to kill in, and in which order."""

import dataclasses
import json
import random

# Where a kill can fall, and at which moments of it. Those of rank 0 alone are where only it works.
MOMENTS = {
    "attack": ("step",),
    "all-reduce": ("waiting", "exchange"),
    "writing": ("begun", "during", "not stamped", "not synced"),
    "renaming": ("before", "after"),
    "epoch's end": ("callback", "record"),
    "switch": ("before", "installed", "tracing", "update"),
    "random": ("starting", "training"),
}
OF_RANK_0 = {"writing", "renaming", ("epoch's end", "record")}


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill -9.

    Attributes:
        kind: Of `MOMENTS`.
        moment: Of those of its kind.
        rank: The worker that comes to the moment; of random kills, the one that is killed.
        all: Whether all workers are killed with it.
        count: At which passage of the moment in this process; behind how many of the callbacks, at
            an epoch's end.
        delay: Seconds after it, where there is time to wait; of random kills the share of
            the time that an undisturbed run takes to start, or to train.
    """

    kind: str
    moment: str
    rank: int = 0
    all: bool = False
    count: int = 1
    delay: float = 0.0

    def dump(self):
        """As a line of text."""
        return json.dumps(dataclasses.asdict(self))


def plan(seed, each=5, others=8):
    """Kills in an order to go by: `each` of every kind, and `others` at random moments."""
    draw = random.Random(seed)
    kills = []
    for kind, moments in MOMENTS.items():
        for number in range(others if kind == "random" else each):
            moment = moments[number % len(moments)]
            only_0 = kind in OF_RANK_0 or (kind, moment) in OF_RANK_0
            kills.append(
                Kill(
                    kind,
                    moment,
                    rank=0 if only_0 else draw.randrange(2),
                    all=draw.random() < 0.5,
                    count=_count(kind, moment, draw),
                    delay=_delay(kind, moment, draw),
                )
            )
    draw.shuffle(kills)
    return kills


def _count(kind, moment, draw):
    most = {"attack": 5, "all-reduce": 3, "writing": 2, "renaming": 3, "epoch's end": 12}
    return 1 if moment == "exchange" else draw.randint(1, most.get(kind, 1))


def _delay(kind, moment, draw):
    longest = {"waiting": 0.5, "exchange": 0.002, "during": 0.04, "starting": 1, "training": 1}
    return draw.uniform(0, longest.get(moment, 0.0))


def choose(kills, finished, step, switch):
    """Takes the next kill out of a list, which a run can still come to.

    Args:
        kills: List of `Kill`.
        finished: How many epochs the run has finished,
        step: and updates of the next.
        switch: Which epoch, from 0, is the first on running statistics.

    Returns:
        A `Kill`; None if the run has no more to come to.
    """
    ahead = finished < switch or (finished == switch and step == 0)
    near = ahead and finished >= switch - 1
    for wanted in (lambda kill: kill.kind != "switch" or near, lambda kill: ahead):
        for kill in kills:
            if wanted(kill):
                kills.remove(kill)
                return kill
    return None
