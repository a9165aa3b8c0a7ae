"""What tools/run_horovod.py does with --restarts: starts a training again while it gets on."""

import itertools
import os
import re
import sys
import time
from pathlib import Path

# As tfadv.training.checkpoint_files names them: finished epochs, and updates of the next one.
NAME = re.compile(r"epoch-\d+(-step-\d+)?\.keras")
RESUME = 75
USERS_MISTAKE = 2


def supervise(start, launch, run_directory: str, times: int) -> int:
    """Runs a training, and again from its newest checkpoint as long as it makes progress.

    Args:
        start: Function of whether to resume, which runs it to its end and returns its status.
        launch: The `Launch` that it runs under, which knows of signals.
        run_directory: Of the training.
        times: How often it may be started again.

    Returns:
        The status of the last run.
    """
    pause = float(os.environ.get("TFADV_RESTART_SECONDS", 10))
    last = newest(run_directory)
    for restart in itertools.count(1):
        status = start(restart > 1)
        if status in (0, USERS_MISTAKE) or launch.signal is not None or not times:
            return status
        now = newest(run_directory)
        if now == last:
            name = f"newer than {now[-1]}" if now else "to start again from"
            return give_up(status, f"since its last start it wrote no checkpoint {name}")
        if restart > times:
            return give_up(status, f"it was started again {times} times")
        last = now
        say(
            f"ended with status {status}; restart {restart} of {times}, from {now[-1]}, "
            f"in {pause:g} s"
        )
        until = time.monotonic() + pause
        while time.monotonic() < until:
            time.sleep(0.05)
            if launch.signal is not None:
                return RESUME
        pause = min(2 * pause, max(600, pause))


def newest(run_directory: str) -> tuple | None:
    """Of the checkpoint that a run wrote last what tells it from others: its time and name.

    Not the one that is furthest on: if that is broken, the training begins again behind it.
    """
    paths = Path(run_directory, "checkpoints").glob("epoch-*.keras")
    found = [(p.stat().st_mtime_ns, p.name) for p in paths if NAME.fullmatch(p.name)]
    return max(found, default=None)


def give_up(status: int, reason: str) -> int:
    say(f"ended with status {status} and is not started again: {reason}")
    return status


def say(text: str) -> None:
    print(f"run_horovod.sh: {text}", file=sys.stderr, flush=True)
