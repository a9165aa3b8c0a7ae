import statistics


class Number:
    """One accuracy in percent: what our runs have, and what the paper has.

    Args:
        paper: Float, or None where the paper has none.
    """

    def __init__(self, paper=None):
        self.paper = paper
        self.results = []  # pairs of a run's name and its `Measurement`

    def __bool__(self):
        return bool(self.results)

    @property
    def runs(self):
        """Names of the runs."""
        return [name for name, _ in self.results]

    @property
    def ours(self):
        """The mean over runs; None without one."""
        shares = self._shares()
        return statistics.fmean(shares) if shares else None

    @property
    def spread(self):
        """The standard deviation over runs (with n - 1); None with fewer than two."""
        shares = self._shares()
        return statistics.stdev(shares) if len(shares) > 1 else None

    @property
    def interval(self):
        """The 95% Wilson interval of a single run, which speaks of the images alone.

        None for several runs, whose spread says more.
        """
        if len(self.results) != 1:
            return None
        return tuple(100 * end for end in self.results[0][1].result.interval)

    @property
    def difference(self):
        """Ours minus the paper's; None without both."""
        if self.paper is None or not self.results:
            return None
        return self.ours - self.paper

    @property
    def difference_interval(self):
        """`interval` minus the paper's number, which counts as exact; None without both."""
        if self.paper is None or self.interval is None:
            return None
        return tuple(end - self.paper for end in self.interval)

    def _shares(self):
        return [100 * measurement.result.accuracy for _, measurement in self.results]


def change(number, reference, whose):
    """What stands in the paper's tables as +3.0: a number minus that of another row.

    Args:
        number, reference: `Number`, or None.
        whose: `"ours"` or `"paper"`.

    Returns:
        A float; None where one of the two is missing.
    """
    if number is None or reference is None:
        return None
    values = getattr(number, whose), getattr(reference, whose)
    return None if None in values else values[0] - values[1]
