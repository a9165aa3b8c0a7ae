"""How long workers on several hosts communicate for an update, beside what tfadv.plan says.

Each worker averages as many bytes as the gradients have with the others, as `tfadv.train` does it
once an update, and computes nothing else. The plan's model gets what was measured of the network
itself between two hosts: the bytes a second of one connection, and the seconds of a small message.

All hosts share this machine's cores, so a network on which they cannot keep up is not measured.
There the cores are busy nearly all the time; such a row says so and is not compared.
"""

import json
import sys
from pathlib import Path

from machines.cases import case
from machines.hosts import Failure
from machines.trainings import ENVIRONMENT, HOROVODRUN, SECONDS

HOSTS = ("hosta", "hostb", "hostc", "hostd")
SCRIPT = [sys.executable, str(Path(__file__).with_name("averaging.py"))]
NETWORKS = [(rate, delay) for rate in (1, 10) for delay in (0.0, 0.00005, 0.001)]  # Gbit/s, s
MEGABYTES = (25, 240)
LIMIT = 0.15  # of the measured time, by which the model may be wrong
BUSY = 0.8  # share of the time of all cores from which on they, not the network, set the pace


def scale(hosts, count):
    """Measures on all networks, prints a table, and fails if the model is wrong anywhere."""
    from tfadv.programs.time_model import all_reduce_seconds

    folder = hosts.folder / f"scale-{count}"
    folder.mkdir()
    sizes = [size for size in MEGABYTES if fits(count, size)]
    command = [HOROVODRUN, "-np", str(count), "--start-timeout", str(SECONDS)]
    command += ["-H", ",".join(f"{name}:{count // len(HOSTS)}" for name in HOSTS)]
    command += [*SCRIPT, "worker", str(folder), *map(str, sizes)]
    variables = {**ENVIRONMENT, "HOROVOD_GLOO_TIMEOUT_SECONDS": str(SECONDS)}
    errors = []
    print("| network | one connection | MB | seconds | plan | cores busy | 128 workers, plan |")
    print("|---|---|---|---|---|---|---|")
    with (
        hosts.start("hostb", [*SCRIPT, "serve"]),
        hosts.start("hosta", command, **variables) as process,
    ):
        process.wait_until((folder / "ready").exists, "all workers", SECONDS)
        for number, (rate, delay) in enumerate(NETWORKS):
            with hosts.shaped(delay=delay, rate=f"{rate}gbit"):
                status, output = hosts.run("hosta", [*SCRIPT, "measure", "hostb"])
                if status:
                    raise Failure(f"no measurement of the network: {output}")
                network = json.loads(output)
                (folder / f"go-{number}").touch()
                done = folder / f"done-{number}"
                process.wait_until(done.exists, "measurement", SECONDS)
            for size, (seconds, busy) in json.loads(done.read_text()).items():
                plan = all_reduce_seconds(count, 1e6 * int(size), **network)
                many = all_reduce_seconds(128, 1e6 * int(size), **network)
                bound = "; the cores set the pace" if busy > BUSY else ""
                name = f"{rate} Gbit/s, {1e6 * delay:g} us"
                print(
                    f"| {name} | {network['bandwidth'] / 1e9:.3g} GB/s, "
                    f"{1e6 * network['latency']:.0f} us | {size} | {seconds:.3f} | {plan:.3f} "
                    f"({plan / seconds - 1:+.0%}) | {busy:.0%}{bound} | {many:.3f} |",
                    flush=True,
                )
                if not bound:
                    errors.append((abs(plan / seconds - 1), f"{size} MB on {name}"))
        (folder / "end").touch()
        process.wait(120)
    compared = f"{len(errors)} of {len(NETWORKS) * len(sizes)} rows are compared"
    worst, where = max(errors, default=(0.0, "nothing"))
    if worst > LIMIT:
        raise Failure(f"the plan is wrong by {worst:.0%} for {where}; {compared}")
    return f"the plan is wrong by {worst:.0%} at most, for {where}; {compared}"


def fits(count, megabytes):
    """Whether workers with so many bytes of gradients fit in this machine's memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    # TensorFlow itself, and the gradients, their sums and Horovod's copy.
    return count * (400 + 3.2 * megabytes) < available / 1024


@case("scale-8", "8 workers on four hosts: seconds of communication, and the plan's", HOSTS)
def scale_8(hosts):
    return scale(hosts, 8)


@case("scale-16", "16 workers on four hosts: the same", HOSTS)
def scale_16(hosts):
    return scale(hosts, 16)


@case("scale-32", "32 workers on four hosts: the same", HOSTS)
def scale_32(hosts):
    return scale(hosts, 32)
