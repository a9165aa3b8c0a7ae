import threading

import numpy as np
import pytest

from tfadv import distributed


@pytest.fixture
def together(monkeypatch):
    """Runs a function of the rank on several workers, which are threads of this process.

    Returns what each of them returned, or the message of the `ValueError` that it raised.
    """

    def run(size, function):
        here, barrier, given = threading.local(), threading.Barrier(size, timeout=60), [None] * size
        results = [None] * size

        def gather(value):
            given[here.rank] = value
            barrier.wait()
            everyone = list(given)
            barrier.wait()
            return everyone

        def work(rank):
            here.rank = rank
            try:
                results[rank] = function(rank)
            except ValueError as error:
                results[rank] = str(error)

        with monkeypatch.context() as patch:
            patch.setattr(distributed, "size", lambda: size)
            patch.setattr(distributed, "rank", lambda: here.rank)
            patch.setattr(distributed, "gather_object", gather)
            patch.setattr(distributed, "total", lambda x: np.sum(gather(np.asarray(x)), axis=0))
            threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return results

    return run
