import sys
import time

from tfadv import distributed


def progress_bar(label="evaluate", stream=None, clock=time.monotonic):
    """Makes a progress line with an estimate of the time left, for rank 0 alone.

    On a terminal the line rewrites itself; elsewhere (a log, `horovodrun`) there is a new line for
    about every tenth of the batches.

    Args:
        label: String, how the line begins.
        stream: Text file; None for stderr.
        clock: Function that gives seconds.

    Returns:
        A callable of (done batches, total batches or None), the `progress` of `evaluate`.
    """
    first = shown = None

    def show(done, total):
        nonlocal first, shown
        if distributed.rank() != 0:
            return
        output = stream or sys.stderr
        # Timed from the end of the first batch, which has compiled the graphs.
        first = (done, clock()) if first is None or done <= first[0] else first
        line = f"{label} {done}/{total} batches" if total else f"{label} {done} batches"
        if total and first[0] < done < total:
            left = (clock() - first[1]) / (done - first[0]) * (total - done)
            line += f", {_duration(left)} left"
        if output.isatty():
            output.write(f"\r{line:<60}" + ("\n" if done == total else ""))
        elif total is None or done == total or done * 10 // total != shown:
            output.write(f"{line}\n")
        shown = done * 10 // total if total else None
        output.flush()

    return show


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
