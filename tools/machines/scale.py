"""How long workers on several hosts communicate for an update, beside what tfadv.plan says.

Each worker averages as many bytes as the gradients have with the others, as `tfadv.train` does it
once an update, and computes nothing else. The plan's model gets what was measured of the network
itself: between all neighbours of the ring at the same time, the bytes a second of the slowest
connection, and the seconds of a small message.

All hosts share this machine's cores, which could not keep up with such networks. So time is
stretched: the networks are `STRETCH` times slower than they stand for, and have `STRETCH` times
their delays, beside which the cores seem to be as many times faster. All seconds in the table are
divided by it again. (Gupta et al., "To Infinity and Beyond: Time-Warped Network Emulation", 2006.)
"""

import contextlib
import json
import sys
from pathlib import Path

from machines.cases import case
from machines.hosts import Failure
from machines.trainings import ENVIRONMENT, HOROVODRUN, SECONDS

HOSTS = ("hosta", "hostb", "hostc", "hostd")
SCRIPT = [sys.executable, str(Path(__file__).with_name("averaging.py"))]
STRETCH = 10
NETWORKS = [(rate, delay) for rate in (1, 10) for delay in (0.0, 0.00005, 0.001)]  # Gbit/s, s
MEGABYTES = (25, 240)
LIMIT = 0.15  # of the measured time, by which the model may be wrong
# Horovod's workers first agree on what is ready, in two rounds like that of the gradients.
ROUNDS = 3
COLUMNS = (
    "workers | network | MB | one connection | a message | measured | plan | error | cores' work | "
    "128 workers, plan"
)


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
    errors, copying = [], None
    print(f"| {COLUMNS} |\n|{'---|' * (COLUMNS.count('|') + 1)}")
    with contextlib.ExitStack() as stack:
        for name in HOSTS:
            stack.enter_context(hosts.start(name, [*SCRIPT, "serve"]))
        process = stack.enter_context(hosts.start("hosta", command, **variables))
        process.wait_until((folder / "ready").exists, "all workers", SECONDS)
        for number, (rate, delay) in enumerate(NETWORKS):
            with hosts.shaped(delay=STRETCH * delay, rate=f"{1000 * rate / STRETCH:g}mbit"):
                bandwidth, message = measured(hosts)
                (folder / f"go-{number}").touch()
                done = folder / f"done-{number}"
                process.wait_until(done.exists, "measurement", SECONDS)
            for size, (seconds, work) in json.loads(done.read_text()).items():
                size, seconds, work = 1e6 * int(size), seconds / STRETCH, work / STRETCH
                network = {"bandwidth": bandwidth, "latency": ROUNDS * message}
                plan = all_reduce_seconds(count, size, **network)
                # All workers share the cores; the rate is taken from the first row.
                first = copying is None
                if first:
                    copying = size / max(1e-9, seconds - plan)
                plan = all_reduce_seconds(count, size, **network, copying=copying)
                many = all_reduce_seconds(128, size, **network, copying=copying)
                error = plan / seconds - 1
                name = f"{rate} Gbit/s, {1e6 * delay:g} us"
                print(
                    f"| {count} | {name} | {size / 1e6:g} | {bandwidth / 1e9:.3g} GB/s | "
                    f"{1e6 * message:.0f} us | {seconds:.3f} s | {plan:.3f} s | "
                    f"{'(taken from it)' if first else f'{error:+.0%}'} | {work:.2f} s | "
                    f"{many:.3f} s |",
                    flush=True,
                )
                if not first:
                    errors.append((abs(error), f"{size / 1e6:g} MB on {name}"))
        (folder / "end").touch()
        process.wait(120)
    worst, where = max(errors)
    if worst > LIMIT:
        raise Failure(f"the plan is wrong by {worst:.0%} for {where}")
    sized = " and ".join(f"{size} MB" for size in sizes)
    return f"{sized}: the plan is wrong by {worst:.0%} at most, for {where}"


def measured(hosts):
    """Returns the bytes a second of the slowest connection of the ring, and a message's seconds.

    Both are those of the network that the stretched one stands for.
    """
    with contextlib.ExitStack() as stack:
        ways = zip(HOSTS, (*HOSTS[1:], HOSTS[0]), strict=True)
        running = [
            stack.enter_context(hosts.start(here, [*SCRIPT, "measure", there]))
            for here, there in ways
        ]
        statuses = [process.wait(SECONDS) for process in running]
        outputs = [process.output for process in running]
    if any(statuses):
        raise Failure(f"no measurement of the network: {' '.join(outputs)}")
    results = list(map(json.loads, outputs))
    bandwidth = min(result["bandwidth"] for result in results)
    return STRETCH * bandwidth, max(result["latency"] for result in results) / STRETCH


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
