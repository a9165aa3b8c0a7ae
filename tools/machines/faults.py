"""Networks that fail: slow ones, hosts that vanish, and a folder of runs that is not shared."""

import time

from machines.cases import case
from machines.hosts import Failure
from machines.trainings import (
    ENVIRONMENT,
    RUN_HOROVOD,
    SECONDS,
    WORKERS,
    Pause,
    finish,
    flags,
    line_with,
    no_workers,
    run,
    same_bits,
)

THREE = ["-np", str(WORKERS), "-H", "hosta:1,hostb:1,hostc:2"]
# The promised time is HOROVOD_GLOO_TIMEOUT_SECONDS, and more for the ends of processes. The
# same time is all that workers may differ in while they import TensorFlow on busy cores.
LIMIT, MORE = 60, 120
SHORT = {**ENVIRONMENT, "HOROVOD_GLOO_TIMEOUT_SECONDS": str(LIMIT), "TFADV_RESTART_SECONDS": "20"}


@case("slow", "50 ms of delay and 1% of loss on all hosts: the same bits")
def slow(hosts):
    directory = hosts.folder / "slow"
    with hosts.shaped(delay=0.05, loss=0.01):
        run(hosts, "hosta", [RUN_HOROVOD, *THREE, *flags(directory)])
    return same_bits(hosts, directory)


def vanish(hosts, moment, rank):
    """Cuts off hostc at a moment that a worker waits at, and connects it again for the restart."""
    directory = hosts.folder / f"vanish-{moment}"
    command = [RUN_HOROVOD, *THREE, "--restarts=3", *flags(directory)]
    pause = Pause(hosts, moment, rank)
    with hosts.start("hosta", command, **{**SHORT, **pause.variables}) as process:
        pause.wait(process)
        with hosts.cut_off("hostc"):
            began = time.monotonic()
            pause.go()
            process.wait_for("restart 1 of 3", LIMIT + MORE)
            seconds = time.monotonic() - began
            no_workers(hosts, MORE)
        output = finish(process, 0)
    line = line_with(output, "hostc", "worker 2", "worker 3")
    return f"after {seconds:.0f} s: {line}; restarted, {same_bits(hosts, directory)}"


@case("vanish-step", "a host vanishes in a step, and is there again for `--restarts=3`")
def vanish_step(hosts):
    return vanish(hosts, "step", 3)


@case("vanish-checkpoint", "a host vanishes while a checkpoint is written")
def vanish_checkpoint(hosts):
    return vanish(hosts, "checkpoint", 0)


@case("vanish-evaluation", "a host vanishes in an evaluation")
def vanish_evaluation(hosts):
    return vanish(hosts, "evaluation", 3)


@case("vanish-launcher", "the host of worker 0 and of `run_horovod.sh` vanishes")
def vanish_launcher(hosts):
    directory = hosts.folder / "vanish-launcher"
    pause = Pause(hosts, "step", 3)
    command = [RUN_HOROVOD, *THREE, *flags(directory)]
    with hosts.start("hosta", command, **{**SHORT, **pause.variables}) as process:
        pause.wait(process)
        with hosts.cut_off("hosta"):
            began = time.monotonic()
            pause.go()
            no_workers(hosts, LIMIT + MORE)
            seconds = time.monotonic() - began
            output = finish(process, 1, MORE)
    return f"after {seconds:.0f} s: {line_with(output, 'hostb', 'hostc')}"


@case("blink", "a host is cut off for 5 s in a step")
def blink(hosts):
    directory = hosts.folder / "blink"
    pause = Pause(hosts, "step", 3)
    command = [RUN_HOROVOD, *THREE, *flags(directory)]
    with hosts.start("hosta", command, **{**SHORT, **pause.variables}) as process:
        pause.wait(process)
        with hosts.cut_off("hostc"):
            pause.go()
            time.sleep(5)
        finish(process, 0)
    return f"it goes on; {same_bits(hosts, directory)}"


@case("unshared", "each host has a directory of runs of its own")
def unshared(hosts):
    directory = "/tmp/runs/unshared"  # each host's own
    command = [RUN_HOROVOD, *THREE, *flags(directory)]
    with hosts.start("hosta", command, **ENVIRONMENT) as process:
        process.wait_for("epoch ", SECONDS)
        lines = process.output.splitlines()
    no_workers(hosts, MORE)  # `run_horovod.sh` was killed
    said = [line for line in lines if "run_dir" in line]
    if len(said) != 1:
        raise Failure(f"{len(said)} lines on it before training: {' | '.join(said)}")
    return said[0]
