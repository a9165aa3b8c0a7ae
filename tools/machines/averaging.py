"""Workers that only communicate, and a measurement of the network; tools/machines/scale.py runs it.

    horovodrun ... python averaging.py worker FOLDER MEGABYTES...
    python averaging.py serve
    python averaging.py measure HOST         (where `serve` runs)

Workers write `ready` into the folder. Whenever `go-0`, `go-1`, ... appears there, they average so
many megabytes, and write the seconds into `done-0`, `done-1`, ...; the file `end` ends them.
"""

import itertools
import json
import resource
import socket
import statistics
import sys
import time
from pathlib import Path

PORT = 7000
TIMES = 3
MESSAGES = 30
WARM, TIMED = 8 * 2**20, 24 * 2**20  # bytes that `measure` sends
TENSORS = 100


def tensors(megabytes):
    """Returns the numbers of elements of float32 tensors; half of the tensors are small."""
    small = [256] * (TENSORS // 2)
    large = (megabytes * 250_000 - sum(small)) // (TENSORS // 2)
    return [*small, *[large] * (TENSORS // 2)]


def worker(folder, *sizes):
    """Averages tensors of each size on each network, as one of the workers."""
    import tensorflow as tf

    from tfadv import distributed

    distributed.init()
    folder = Path(folder)
    values = {int(size): [tf.ones([count]) for count in tensors(int(size))] for size in sizes}
    for size in values:  # agrees on the tensors, which later updates remember
        distributed.mean(values[size], f"scale-{size}")
    if distributed.rank() == 0:
        (folder / "ready").touch()
    for number in itertools.count():
        go, end = folder / f"go-{number}", folder / "end"
        while distributed.rank() == 0 and not (go.exists() or end.exists()):
            time.sleep(0.1)
        if distributed.broadcast_object(end.exists()):
            return
        results = {size: average(values[size], f"scale-{size}") for size in values}
        if distributed.rank() == 0:
            whole = folder / f"done-{number}.new"
            whole.write_text(json.dumps(results))
            whole.rename(folder / f"done-{number}")


def average(values, name):
    """Returns the seconds of an update, and the sum of all cores' seconds of copying and adding.

    The kernel's part does not count, as the network sends meanwhile.
    """
    from tfadv import distributed

    seconds, works = [], []
    for _ in range(TIMES):
        distributed.total([0.0])  # all begin together
        began, work = time.perf_counter(), user_seconds()
        distributed.mean(values, name)
        seconds.append(time.perf_counter() - began)
        works.append(user_seconds() - work)
    # An update ends when the slowest worker has the mean.
    slowest = map(max, zip(*distributed.gather_object(seconds), strict=True))
    together = map(sum, zip(*distributed.gather_object(works), strict=True))
    return statistics.median(slowest), statistics.median(together)


def user_seconds():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def measure(host):
    """Prints the bytes a second of a connection to `serve`, and the seconds of a small message."""
    with socket.create_connection((host, PORT), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = []
        for _ in range(MESSAGES):
            began = time.perf_counter()
            connection.sendall(b"p")
            connection.recv(1)
            ways.append((time.perf_counter() - began) / 2)
        connection.sendall(b"s")
        data = b"\0" * 2**18
        for _ in range((WARM + TIMED) // len(data)):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        rate = float(connection.makefile().read())
    # Other work on the cores delays some messages, which is none of the network's.
    print(json.dumps({"bandwidth": rate, "latency": statistics.quantiles(ways, n=4)[0]}))


def serve():
    """Answers `measure`."""
    with socket.create_server(("", PORT)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while connection.recv(1) == b"p":
                    connection.sendall(b"p")
                # A connection is slow in its beginning, and those of a training are old.
                receive(connection, WARM)
                began = time.perf_counter()
                received = receive(connection, TIMED)
                connection.sendall(b"%f" % (received / (time.perf_counter() - began)))


def receive(connection, count):
    """Reads so many bytes, or those that come; returns how many came."""
    received = 0
    while received < count and (data := connection.recv(min(1 << 20, count - received))):
        received += len(data)
    return received


if __name__ == "__main__":
    {"worker": worker, "measure": measure, "serve": serve}[sys.argv[1]](*sys.argv[2:])
