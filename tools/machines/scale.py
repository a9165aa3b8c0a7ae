"""How long workers on several hosts communicate for an update, beside what tfadv.plan says.

Each worker averages as many bytes as the gradients have with the others, as `tfadv.train` does it
once an update, and computes nothing else. The plan's model gets what was measured of the network
itself: between all neighbours of the ring at the same time, the bytes a second of a connection, and
the seconds of a small message.

All hosts share this machine's cores, which could not keep up with such networks. So time is
stretched: every network really has `REAL` Gbit/s, and its delays are longer by the same factor. All
seconds in the table are divided by it again. (Gupta et al., "To Infinity and Beyond: Time-Warped
Network Emulation", 2006.) The cores seem to be faster by that factor. How long they copy and add
for an update is measured by their own clocks at full speed, without the kernel's part, which goes
on while the network sends; the plan is told how fast they copy accordingly: `--copying`.
"""

import contextlib
import json
import os
import statistics
import sys
from pathlib import Path

from machines.cases import case
from machines.hosts import Failure
from machines.trainings import ENVIRONMENT, HOROVODRUN, SECONDS

HOSTS = ("hosta", "hostb", "hostc", "hostd")
SCRIPT = [sys.executable, str(Path(__file__).with_name("averaging.py"))]
REAL = 0.1
NETWORKS = [(rate, delay) for rate in (1, 10) for delay in (0.0, 0.00005, 0.001)]  # Gbit/s, s
MEGABYTES = (25, 240)
LIMIT = 0.15  # of the measured time, by which the model may be wrong
COLUMNS = "workers | network | MB | GB/s | message, us | measured, s | plan, s | error | 128, s"


def scale(hosts, count):
    """Measures on all networks, prints a table, and fails if the model is wrong anywhere."""
    from tfadv.programs.time_model import gloo_seconds

    folder = hosts.folder / f"scale-{count}"
    folder.mkdir()
    sizes = [size for size in MEGABYTES if fits(count, size)]
    if not sizes:
        raise Failure(f"{count} workers do not fit in this machine's memory now")
    command = [HOROVODRUN, "-np", str(count), "--start-timeout", str(SECONDS)]
    command += ["-H", ",".join(f"{name}:{count // len(HOSTS)}" for name in HOSTS)]
    command += [*SCRIPT, "worker", str(folder), *map(str, sizes)]
    variables = {**ENVIRONMENT, "HOROVOD_GLOO_TIMEOUT_SECONDS": str(SECONDS)}
    errors = []
    with contextlib.ExitStack() as stack:
        for name in HOSTS:
            # Otherwise every update would begin slowly, as workers compute between two of them.
            setting = "/proc/sys/net/ipv4/tcp_slow_start_after_idle"
            hosts.call(name, "sh", "-c", f"echo 0 >{setting}")
            stack.enter_context(hosts.start(name, [*SCRIPT, "serve"]))
        process = stack.enter_context(hosts.start("hosta", command, **variables))
        process.wait_until((folder / "ready").exists, "all workers", SECONDS)
        works = {size: work for size, (_, work) in averages(process, folder, 0).items()}
        for size, work in works.items():
            print(
                f"{count} workers, {size} MB: the cores copy and add for {work:.2f} s", flush=True
            )
        print(f"| {COLUMNS} |\n|{'---|' * (COLUMNS.count('|') + 1)}")
        for number, (rate, delay) in enumerate(NETWORKS, start=1):
            stretch = rate / REAL
            with hosts.shaped(delay=stretch * delay, rate=f"{1000 * REAL:g}mbit"):
                bandwidth, message = measured(hosts)
                results = averages(process, folder, number)
            network = {"bandwidth": bandwidth * stretch, "message": message / stretch}
            for megabytes, (seconds, _) in results.items():
                size, seconds = 1e6 * int(megabytes), seconds / stretch
                a_core = count * size / works[megabytes]  # bytes a second
                here = a_core * os.cpu_count() / count * stretch
                plan = gloo_seconds(count, size, **network, copying=here)
                many = gloo_seconds(128, size, **network, copying=a_core)
                error = plan / seconds - 1
                name = f"{rate} Gbit/s, {1e6 * delay:g} us"
                print(
                    f"| {count} | {name} | {megabytes} | {network['bandwidth'] / 1e9:.3f} | "
                    f"{1e6 * network['message']:.1f} | {seconds:.3f} | {plan:.3f} | {error:+.0%} | "
                    f"{many:.2f} |",
                    flush=True,
                )
                errors.append((abs(error), f"{megabytes} MB on {name}"))
        (folder / "end").touch()
        process.wait(120)
    worst, where = max(errors)
    if worst > LIMIT:
        raise Failure(f"the plan is wrong by {worst:.0%} for {where}")
    sized = " and ".join(f"{size} MB" for size in sizes)
    return f"{sized}: the plan is wrong by {worst:.0%} at most, for {where}"


def averages(process, folder, number):
    """Has the workers average; returns by megabytes what `averaging.average` does."""
    (folder / f"go-{number}").touch()
    done = folder / f"done-{number}"
    process.wait_until(done.exists, "measurement", SECONDS)
    return json.loads(done.read_text())


def measured(hosts):
    """Returns the bytes a second of a connection of the ring, and the seconds of a message.

    All of the ring's connections are alike, but other work on the cores disturbs some.
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
    medians = (statistics.median(result[name] for result in results) for name in results[0])
    return tuple(medians)


def fits(count, megabytes):
    """Whether workers with so many bytes of gradients fit in this machine's memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    # TensorFlow itself, but for what workers share, and the gradients, their sums, Horovod's copy.
    return count * (300 + 4 * megabytes) < available / 1024


@case("scale-8", "8 workers on four hosts: seconds of communication, and the plan's", HOSTS)
def scale_8(hosts):
    return scale(hosts, 8)


@case("scale-16", "16 workers on four hosts: the same", HOSTS)
def scale_16(hosts):
    return scale(hosts, 16)


@case("scale-32", "32 workers on four hosts: the same", HOSTS)
def scale_32(hosts):
    return scale(hosts, 32)
