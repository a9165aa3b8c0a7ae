"""tools/test_machines.py: its list of cases, its table, and the hosts that it makes."""

import contextlib
import datetime
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import test_machines
from machines import averaging, slurm, trainings
from machines import hosts as making
from machines.cases import CASES, Case
from machines.hosts import Failure, Hosts

ROOT = Path(__file__).parent.parent


def test_cases_are_chosen_by_name_and_by_theme():
    everything = test_machines.choose([])
    asked_for = test_machines.choose(test_machines.ON_REQUEST)
    assert asked_for and everything + asked_for == list(CASES.values())
    assert [case.name for case in test_machines.choose(["horovodrun"])] == ["horovodrun"]
    assert "horovodrun" in [case.name for case in test_machines.choose(["ssh"])]
    with pytest.raises(Failure, match="received sssh"):
        test_machines.choose(["sssh"])


def test_a_failed_case_is_a_row_and_the_status(monkeypatch, tmp_path, capsys):
    def passes(hosts):
        return "all is well"

    def fails(hosts):
        raise Failure("a bit differs; stack traces: /var/tmp/tfadv-machines-x_1/b/stalled.log")

    cases = [Case("a", "tries a", passes, (), {}), Case("b", "tries b", fails, (), {})]
    monkeypatch.setattr(test_machines, "choose", lambda words: cases)
    monkeypatch.setattr(test_machines, "CASES", {"c": None, "b": None, "a": None})
    monkeypatch.setattr(making, "check", lambda: None)
    monkeypatch.setattr(making, "install", lambda packages: None)
    monkeypatch.setattr(test_machines, "Hosts", lambda *names: open(os.devnull))
    results, page = tmp_path / "machines.json", tmp_path / "page.md"
    old = {"tries": "", "date": "2026-01-01", "seconds": 1, "status": "passes", "last line": "old"}
    results.write_text(json.dumps([{"case": case} | old for case in "bc"]))
    page.write_text("above\n<!-- machines -->\nold\n<!-- end -->\nbelow\n")
    monkeypatch.setattr(test_machines, "RESULTS", results)
    monkeypatch.setattr(test_machines, "PAGE", page)
    assert test_machines.main(["--dry"]) == 1
    today = datetime.date.today().isoformat()
    rows = [
        f"| a | tries a | {today} | 0 | passes | all is well |",
        f"| b | tries b | {today} | 0 | fails | a bit differs; stack traces: b/stalled.log |",
    ]
    assert capsys.readouterr().out.splitlines()[-2:] == rows
    assert page.read_text().count("old") == 1
    # The newest row of each case, in the order of the cases.
    assert test_machines.main([]) == 1
    assert [row["case"] for row in json.loads(results.read_text())] == ["c", "b", "a"]
    older = "| c |  | 2026-01-01 | 1 | passes | old |"
    before, *table, end, after = page.read_text().splitlines()
    assert [older, *reversed(rows)] == [line for line in table if line.startswith("| ")][1:]
    assert (before, end, after) == ("above", "<!-- end -->", "below")


def test_the_run_on_one_machine_is_made_once_for_all_cases(monkeypatch, tmp_path):
    commands = []

    def run(hosts, name, command):
        commands.append(command)
        directory = tmp_path / f"one-machine-{command[2]}"
        directory.mkdir()
        (directory / "model.keras").touch()

    monkeypatch.setattr(trainings, "run", run)
    hosts = types.SimpleNamespace(folder=tmp_path, names=["hosta"])
    # MPI's cases leave the number of workers out, and Slurm's do not.
    four = [trainings.reference(hosts), trainings.reference(hosts, trainings.WORKERS)]
    assert four[0] == four[1] != trainings.reference(hosts, 2)
    assert len(commands) == 2


def test_missing_packages_are_named(monkeypatch):
    commands = {sys.executable: "python", "no-such-command": "b", "nor-this": "a"}
    assert making.missing(commands) == ["a", "b"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="these packages are missing: a, b"):
        making.install(["a", "b"])
    with pytest.raises(Failure, match="only root"):
        making.check()


def test_clean_removes_what_killed_runs_left(monkeypatch, tmp_path):
    monkeypatch.setattr(making, "FOLDER", tmp_path)
    dead, alive, other = (tmp_path / name for name in ("tfadv-machines-1", "tfadv-machines-2", "x"))
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "lock").touch()
    # A shell would start a second process, which has the shell's command line for a moment.
    sleep = "import time; time.sleep(60)"
    left = subprocess.Popen([sys.executable, "-c", sleep, f"{dead}/hosta"])
    while not making.processes_of(dead):  # the kernel is still starting it
        time.sleep(0.01)
    with open(alive / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert making.clean() == [f"process {left.pid}", str(dead)]
    assert left.wait(10) == -signal.SIGKILL
    assert sorted(tmp_path.iterdir()) == [alive, other]


def test_tensors_hold_the_bytes_of_the_gradients():
    for megabytes in (25, 240):
        sizes = averaging.tensors(megabytes)
        assert abs(4 * sum(sizes) - 1e6 * megabytes) < 4 * len(sizes)


def test_a_connection_is_measured(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(averaging, "PORT", port)
    threading.Thread(target=averaging.serve, daemon=True).start()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            averaging.measure("127.0.0.1")
            break
        time.sleep(0.05)
    network = json.loads(capsys.readouterr().out)
    assert 1e6 < network["bandwidth"] < 1e12 and 1e-7 < network["latency"] < 1


needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or bool(making.missing(making.PACKAGES)),
    reason="only root can make hosts, with the packages of tools/machines/hosts.py",
)


@pytest.mark.slow
@needs_hosts
def test_hosts_have_a_network_names_processes_and_files_of_their_own():
    before = Path("/proc/net/dev").read_text().count(":")
    with Hosts("hosta", "hostb") as hosts:
        assert hosts.call("hosta", "ssh", "hostb", "hostname").strip() == "hostb"
        hosts.call("hostb", "touch", "/tmp/only-here")
        assert hosts.run("hosta", ["ls", "/tmp/only-here"])[0] == 2
        with hosts.start("hostb", ["sh", "-c", "trap 'exit 75' TERM; sleep 60 & wait"]) as process:
            process.wait_until(lambda: hosts.processes("hostb", "sleep 60"), "its child")
            assert not hosts.processes("hosta", "sleep 60")
            process.send(signal.SIGTERM)
            assert process.wait(10) == 75
        assert not hosts.processes("hostb", "trap")
        ping = ["ssh", "-o", "ConnectTimeout=2", "hostb", "true"]
        with hosts.cut_off("hostb"):
            assert hosts.run("hosta", ping)[0] == 255
        assert hosts.run("hosta", ping)[0] == 0
        send = ["ssh", "hostb", "head -c 500000 /dev/zero"]
        for slow in ({"rate": "1mbit"}, {"delay": 0.3}, {"delay": 0.1, "loss": 0.05}):
            with hosts.shaped(**slow):
                began = time.monotonic()
                status, output = hosts.run("hosta", send)
                assert (status, len(output)) == (0, 500000)
                assert time.monotonic() - began > 1
        assert hosts.run("hosta", send)[0] == 0
        folder = hosts.folder
    assert not folder.exists()
    assert not making.processes_of(folder)
    assert Path("/proc/net/dev").read_text().count(":") == before


@pytest.mark.slow
@needs_hosts
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number):
    script = (
        "import signal, sys, time\n"
        "from machines.hosts import Hosts\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with Hosts('hosta', 'hostb') as hosts, hosts.start('hostb', ['sleep', '600']):\n"
        "    print(hosts.folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=-1) as run:
        folder = Path(run.stdout.readline().decode().strip())
        assert making.processes_of(folder)
        run.send_signal(number)
    gone(lambda: making.processes_of(folder) or folder.exists())


@pytest.mark.slow
@needs_hosts
@pytest.mark.skipif(bool(making.missing(slurm.PACKAGES)), reason="Slurm is not installed")
def test_nothing_is_left_when_the_command_is_killed_while_slurm_trains():
    before = traces()
    command = [sys.executable, ROOT / "tools" / "test_machines.py", "slurm-nodes", "--dry"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until = time.monotonic() + 300
        while run.poll() is None and time.monotonic() < until:
            ours = inside(traces() - before)
            if any(map(making.is_worker, ours)):
                break
            time.sleep(0.2)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in ours}
        run.kill()
    assert names >= {"sshd", "munged", "slurmctld", "slurmd", "slurmstepd"}
    gone(lambda: traces() - before)


def traces():
    """Returns the namespaces that processes are in, and files that hosts could leave."""
    result = set().union(*namespaces_of_processes().values())
    for folder, pattern in ((making.FOLDER, f"{making.PREFIX}*"), ("/sys/fs/cgroup", "*/*slurm*")):
        result |= set(map(str, Path(folder).glob(pattern)))
    for name in ("mounts", "net/dev"):
        result |= {line.split()[0] for line in Path("/proc", name).read_text().splitlines()}
    return result


def inside(some):
    """Returns the processes that are in some of the namespaces."""
    return [pid for pid, namespaces in namespaces_of_processes().items() if namespaces & some]


def namespaces_of_processes():
    result = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            result[int(path.name)] = {os.readlink(link) for link in (path / "ns").iterdir()}
    return result


def gone(left):
    """Waits until a function finds nothing any more."""
    until = time.monotonic() + 20
    while left() and time.monotonic() < until:
        time.sleep(0.1)
    assert not left()
