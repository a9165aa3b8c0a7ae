"""Starts workers on this machine as horovodrun does, without the 4 s that it takes for itself.

    python tools/local_workers.py N COMMAND ...

For tests: horovodrun imports TensorFlow in a process of its own before it starts anyone. And where
it kills the other workers when one has ended, this leaves them half a minute to end by themselves.
"""

import os
import subprocess
import sys
import time

from horovod.runner.common.util import hosts
from horovod.runner.http.http_server import RendezvousServer

PATIENCE = 30.0


def main(count, command):
    server = RendezvousServer()
    port = server.start()
    server.init(hosts.get_host_assignments(hosts.parse_hosts(f"localhost:{count}"), count))
    values = dict(
        HOSTNAME="localhost",
        SIZE=count,
        LOCAL_SIZE=count,
        CROSS_RANK=0,
        CROSS_SIZE=1,
        CONTROLLER="gloo",
        CPU_OPERATIONS="gloo",
        GLOO_RENDEZVOUS_ADDR="127.0.0.1",
        GLOO_RENDEZVOUS_PORT=port,
        GLOO_IFACE="lo",
    )
    workers = []
    for rank in range(count):
        mine = {**values, "RANK": rank, "LOCAL_RANK": rank}
        mine = {f"HOROVOD_{name}": str(value) for name, value in mine.items()}
        workers.append(subprocess.Popen(command, env={**os.environ, **mine}))
    first = None
    while any(worker.poll() is None for worker in workers):
        if first is None and any(worker.poll() for worker in workers):
            first = time.monotonic()
        if first is not None and time.monotonic() - first > PATIENCE:
            for worker in workers:
                worker.kill()
        time.sleep(0.02)
    server.stop()
    return 1 if any(worker.returncode for worker in workers) else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
