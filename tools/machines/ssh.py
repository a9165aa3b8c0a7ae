"""Trainings over ssh, with Gloo."""

from machines.cases import case
from machines.trainings import HOROVODRUN, WORKERS, program, run, same_bits


@case("horovodrun", "horovodrun -np 4 -H hosta:2,hostb:2")
def horovodrun(hosts):
    directory = hosts.folder / "horovodrun"
    command = [HOROVODRUN, "-np", str(WORKERS), "-H", "hosta:2,hostb:2", *program(directory)]
    run(hosts, "hosta", command)
    return same_bits(hosts, directory)
