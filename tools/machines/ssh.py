"""Trainings over ssh, with Gloo."""

import os
import signal
import sys

from machines.cases import case
from machines.hosts import Failure
from machines.trainings import (
    ENVIRONMENT,
    HOROVODRUN,
    RUN_HOROVOD,
    WORKERS,
    Pause,
    finish,
    flags,
    line_with,
    no_workers,
    program,
    run,
    same_bits,
    stopped_and_resumed,
)

TWO = ["-np", "2", "-H", "hosta:1,hostb:1"]


@case("horovodrun", "`horovodrun -np 4 -H hosta:2,hostb:2`: the bits of one machine")
def horovodrun(hosts):
    directory = hosts.folder / "horovodrun"
    command = [HOROVODRUN, "-np", str(WORKERS), "-H", "hosta:2,hostb:2", *program(directory)]
    run(hosts, "hosta", command)
    return same_bits(hosts, directory)


@case("run-horovod", "`run_horovod.sh` with hosts: output of all workers, and the same bits")
def run_horovod(hosts):
    directory = hosts.folder / "run-horovod"
    command = [RUN_HOROVOD, "-np", str(WORKERS), "-H", "hosta:2,hostb:2", *flags(directory)]
    pause = Pause(hosts, "step", 3)  # it prints a line, on hostb
    pause.go()
    output = run(hosts, "hosta", command, **pause.variables)
    line_with(output, "[3] pausing in")
    if not line_with(output, "run: ").startswith("run: "):
        raise Failure("the output of worker 0 is marked")
    return same_bits(hosts, directory)


@case("mistakes", "mistakes: a flag is refused before anything starts, data that one host lacks")
def mistakes(hosts):
    directory = hosts.folder / "mistakes"
    command = [RUN_HOROVOD, *TWO, *flags(directory, "--epsilon=-1")]
    with hosts.start("hosta", command, **ENVIRONMENT) as process:
        output = finish(process, 2, 300)
    if len(output.splitlines()) != 1:
        raise Failure(f"{len(output.splitlines())} lines for one mistake: {output}")
    # What stands in /tmp of hosta is not on hostb.
    make = (
        "import numpy, pathlib, PIL.Image as i\n"
        "for part in ('train', 'val'):\n"
        "    for name in 'ab':\n"
        "        folder = pathlib.Path('/tmp/data', part, name)\n"
        "        folder.mkdir(parents=True)\n"
        "        for n in range(8):\n"
        "            i.new('RGB', (40, 40), n).save(folder / f'{n}.png')\n"
    )
    hosts.call("hosta", sys.executable, "-c", make)
    images = ["--dataset=image_folder", "--data_dir=/tmp/data", "--image_size=32"]
    command = [RUN_HOROVOD, *TWO, *flags(directory, *images)]
    with hosts.start("hosta", command, **ENVIRONMENT) as process:
        output = finish(process, 2)
    no_workers(hosts, 120)
    return line_with(output, "data_dir")


@case("stop", "SIGTERM to `run_horovod.sh`: all hosts end after a checkpoint, and go on with it")
def stop(hosts):
    directory = hosts.folder / "stop"
    command = [RUN_HOROVOD, *TWO, *flags(directory)]
    return stopped_and_resumed(hosts, "hosta", directory, command)


@case("stop-elsewhere", "the same, where `run_horovod.sh` runs on a host without workers")
def stop_elsewhere(hosts):
    directory = hosts.folder / "stop-elsewhere"
    command = [RUN_HOROVOD, *TWO, *flags(directory)]
    return stopped_and_resumed(hosts, "hostc", directory, command)


@case("restarts", "a worker killed on another host, and `--restarts=1`")
def restarts(hosts):
    directory = hosts.folder / "restarts"
    command = [RUN_HOROVOD, *TWO, "--restarts=1", *flags(directory)]
    pause = Pause(hosts, "step", 1)
    with hosts.start("hosta", command, **{**ENVIRONMENT, **pause.variables}) as process:
        pause.wait(process)
        [worker] = hosts.workers("hostb")
        os.kill(worker, signal.SIGKILL)
        output = finish(process, 0)
    line = line_with(output, "worker 1 on hostb ended first")
    return f"{line}; {same_bits(hosts, directory, 2)}"
