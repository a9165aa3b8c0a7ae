"""A stranger on the network, who sends nonsense to all ports that a training listens on."""

import sys

from machines.cases import case
from machines.hosts import ROOT, Failure, last_line
from machines.trainings import (
    ENVIRONMENT,
    RUN_HOROVOD,
    WORKERS,
    Pause,
    finish,
    flags,
    line_with,
    same_bits,
)


@case("strangers", "a third host sends 100 kinds of nonsense to every port of a training")
def strangers(hosts):
    directory = hosts.folder / "strangers"
    command = [RUN_HOROVOD, "-np", str(WORKERS), "-H", "hosta:2,hostb:2", *flags(directory)]
    pause = Pause(hosts, "step", 3)
    with hosts.start("hosta", command, **{**ENVIRONMENT, **pause.variables}) as process:
        pause.wait(process)
        ports = {name: listening(hosts, name) for name in ("hosta", "hostb")}
        own = [port for address, port in ports["hosta"] if address == hosts.address("hosta")]
        if len(own) != 1 or ports["hostb"]:
            raise Failure(f"one port was expected, of the watchdog on hosta: {ports}")
        others = [port for address, port in ports["hosta"] if address == "0.0.0.0"]
        script = [sys.executable, str(ROOT / "tests" / "strangers.py"), "hosta"]
        with hosts.start("hostc", [*script, *map(str, own + others)]) as stranger:
            stranger.wait_until(lambda: "refused" in process.output, "a line about it", 60)
            pause.go()
            output = finish(process, 0)
            stranger.wait(600)
    wrong = [line for line in stranger.output.splitlines() if f"hosta:{own[0]}:" in line]
    # When the training is over, nothing listens any more.
    wrong = [line for line in wrong if "ConnectionRefused" not in line]
    if wrong:
        raise Failure(f"{len(wrong)} kinds of nonsense were not refused: {last_line(wrong[0])}")
    if output.count("refused a connection") != 1:
        raise Failure(f"{output.count('refused a connection')} lines about it")
    line = line_with(output, "refused a connection")
    return f"{len(own + others)} ports; {line}; {same_bits(hosts, directory)}"


def listening(hosts, name):
    """Returns the addresses and ports on which a host listens, except its ssh server's."""
    result = []
    for line in hosts.call(name, "cat", "/proc/net/tcp").splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        address, port = local.split(":")
        dotted = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
        if state == "0A" and int(port, 16) != 22:
            result.append((dotted, int(port, 16)))
    return result
