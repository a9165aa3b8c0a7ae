"""What tools/run_horovod.py does with --restarts: starts a training again after a failure."""

import itertools
import os
import re
import sys
import time
from pathlib import Path

# As tfadv.checkpoint_files names them: finished epochs, and updates of the next one.
NAME = re.compile(r"epoch-\d+(-step-\d+)?\.keras")
RESUME = 75
USERS_MISTAKE = 2


def supervise(start, launch, run_directory: str, times: int) -> int:
    """Runs a training, and after a failure again from its newest checkpoint, so many times.

    It gives up before that when the same error, and not a signal, ended it twice at the same place.

    Args:
        start: Function of whether to resume, which runs it to its end and returns its status.
        launch: The `Launch` that it runs under, which knows of signals and errors.
        run_directory: Of the training.
        times: How often it may be started again.

    Returns:
        The status of the last run.
    """
    pause = float(os.environ.get("TFADV_RESTART_SECONDS", 10))
    before = None
    for restart in itertools.count(1):
        status = start(restart > 1)
        if status in (0, USERS_MISTAKE) or launch.signal is not None or not times:
            return status
        checkpoint = newest(run_directory)
        end = launch.error, checkpoint
        name = checkpoint and checkpoint[-1]
        if launch.error is not None and end == before:
            place = f"after {name}" if name else "before its first checkpoint"
            return give_up(status, f"the same error ended it twice, {place}")
        if restart > times:
            return give_up(status, f"it was started again {times} times")
        before = end
        say(
            f"ended with status {status}; restart {restart} of {times}, from "
            f"{name or 'the beginning'}, in {pause:g} s"
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
