"""run_horovod.sh, mostly with a stand-in for horovodrun, and twice with the real one."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import launcher
import pytest
import run_horovod

horovod = pytest.importorskip("horovod")

ROOT = Path(__file__).parent.parent

# Starts the workers, labels their output and fails like horovodrun.
HOROVODRUN = """\
import json, os, re, signal, subprocess, sys, threading
words = sys.argv[1:]
start = words.index(sys.executable)
n = int(words[words.index("-np") + 1])
with open("launched.json", "w") as file:
    json.dump({"options": words[:start], "command": words[start:], "env": dict(os.environ)}, file)
if os.environ.get("STUB_FAILS"):
    raise ValueError("there are not enough slots")
workers = [
    subprocess.Popen(
        words[start:], env={**os.environ, "HOROVOD_RANK": str(rank)}, stdout=-1, stderr=-1
    )
    for rank in range(n)
]
signal.signal(signal.SIGTERM, lambda *_: [worker.kill() for worker in workers])
def forward(rank, name, pipe):
    for record in re.findall(rb"[^\\r\\n]*[\\r\\n]|[^\\r\\n]+$", pipe.read()):
        stream = getattr(sys, name).buffer
        stream.write(b"[%d]<%b>:%b" % (rank, name.encode(), record))
        stream.flush()
threads = [
    threading.Thread(target=forward, args=(rank, name, getattr(worker, name)))
    for rank, worker in enumerate(workers) for name in ("stdout", "stderr")
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
for rank, worker in enumerate(workers):
    status = worker.wait()
    if status < 0:  # a shell's status after a signal
        status = 128 - status
        print(f"[{rank}]<stderr>:Killed", file=sys.stderr)
    if status:
        print(f"Process {rank} exit with status code {status}.")
        print(f"Terminating remaining workers after failure of Process {rank}.")
        raise RuntimeError(
            "Horovod detected that one or more processes exited with non-zero status, thus causing "
            "the job to be terminated. The first process to do so was:\\n"
            f"Process name: {rank}\\nExit code: {status}\\n"
        )
"""

# A program whose flags decide what it does.
PROGRAM = """\
import json, os, signal, sys, time
flags = sys.argv[1:]
if "--check" in flags:
    with open("checks.txt", "a") as file:
        file.write(os.environ["HOROVOD_SIZE"] + " " + " ".join(flags) + "\\n")
    with open(os.environ["TFADV_RUN_FILE"], "w") as file:
        file.write(os.path.abspath("run"))
    if "--epsilon=-1" in flags:
        sys.exit("epsilon must be between 0 and 255; received -1")
    if "--bad" in flags:
        print("bad must be good", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
rank = os.environ["HOROVOD_RANK"]
print("hello from", rank, flush=True)
if "--bar" in flags and rank == "0":
    sys.stdout.write("\\r1/2 \\r2/2 done\\n")
    print("a warning", file=sys.stderr)
if "--late" in flags and rank == "0":
    open(os.environ["TFADV_STATUS_FILE"], "w").write("2")
    print("image 7 cannot be read: cat.jpg", file=sys.stderr)
    sys.exit(2)
if "--gets-on" in flags and rank == "0":
    # Each start writes one more checkpoint, and the third is the last.
    os.makedirs("run/checkpoints", exist_ok=True)
    with open("starts.txt", "a") as file:
        file.write(" ".join(flags) + "\\n")
    count = len(os.listdir("run/checkpoints"))
    if count < 3:
        names = ["epoch-0000-step-000100", "epoch-0001", "epoch-0001-step-000001"]
        open(f"run/checkpoints/{names[count]}.keras", "w").close()
    if count < 2 or "--in-vain" in flags:
        sys.exit(3)
if "--crash" in flags and rank == "1":
    sys.exit(3)
if "--horovod" in flags:
    path = "/tmp/pip-wheel-g2/horovod_2c/"
    print(f"[2026-11-27 19:20:20. 28581: E {path}horovod/common/operations.cc:697] [0]: Horovod "
          f"background loop uncaught exception: [{path}third_party/gloo/tcp/pair.cc:589] Read "
          "error [127.0.0.1]:39849: Connection reset by peer", file=sys.stderr)
    if rank == "0":
        print("tfadv.train: worker 0 stopped, since another one ended", file=sys.stderr)
        time.sleep(0.5)  # so that the other one ends first
    sys.exit(1)
if "--plan" in flags and rank == "0":
    with open("starts.txt", "a") as file:
        file.write(" ".join(flags) + "\\n")
    with open("plan.txt") as file:
        number = len(open("starts.txt").readlines())
        what, *words = file.read().splitlines()[number - 1].split()
    for flag in flags:
        if flag.startswith("--given="):
            open(os.environ["TFADV_STATUS_FILE"], "w").write(flag.partition("=")[2])
    if what == "save":
        os.makedirs("run/checkpoints", exist_ok=True)
        open(f"run/checkpoints/epoch-{number:04}.keras", "w").close()
        what, *words = words
    if what == "signal":
        if words[1:]:  # the status of another worker, which stopped because of this one
            open(os.environ["TFADV_STATUS_FILE"], "w").write(words[1])
        os.kill(os.getpid(), int(words[0]))
    if what == "error":
        print("tfadv.train: " + " ".join(words), file=sys.stderr)
        print(f"I0000 00:00:17958.{number} 233{number} port.cc:153] a log line", file=sys.stderr)
        sys.exit(1)
    if what == "status":
        sys.exit(int(words[0]))
if "--wait" in flags:
    def stop(number, _):
        time.sleep(float(os.environ.get("STUB_SECONDS", 0.2)))
        with open(f"saved-{rank}", "w") as file:
            file.write(signal.Signals(number).name)
        sys.exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        if "--unready" not in flags:
            signal.signal(number, stop)
    open(f"ready-{rank}", "w").close()
    time.sleep(60)
"""


@pytest.fixture
def house(tmp_path):
    """A checkout with the real script, and stand-ins for the package and for horovodrun."""
    shutil.copy(ROOT / "run_horovod.sh", tmp_path)
    (tmp_path / "tools").mkdir()
    for name in ("run_horovod.py", "launcher.py"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    (tmp_path / "tfadv").mkdir()
    (tmp_path / "tfadv" / "__init__.py").touch()
    for program in ("train", "evaluate"):
        (tmp_path / "tfadv" / f"{program}.py").write_text(PROGRAM)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    horovodrun = bin_folder / "horovodrun"
    horovodrun.write_text(f"#!{bin_folder / 'python'}\n{HOROVODRUN}")
    horovodrun.chmod(0o755)
    return tmp_path


def environment(**more):
    threads = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    # Variables that the tests themselves run under must not reach the script.
    clean = {k: v for k, v in os.environ.items() if k not in threads and "HOROVOD" not in k}
    # The script imports Horovod to read horovodrun's options; the stand-in environment has none.
    return clean | {"PYTHONPATH": str(Path(horovod.__file__).parents[1])} | more


def run(house, *arguments, **variables):
    return subprocess.run(
        [house / "run_horovod.sh", *arguments],
        cwd=house,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def launched(house):
    return json.loads((house / "launched.json").read_text())


@pytest.mark.parametrize(
    ("line", "options", "flags"),
    [
        ("-np 2 --norm=mbn", "-np 2", "--norm=mbn"),
        ("--norm mbn -np 2 --bf16", "-np 2", "--norm mbn --bf16"),
        ("-np=4 -H a:2,b:2 -p 22 --epsilon 4", "-np=4 -H a:2,b:2 -p 22", "--epsilon 4"),
        (
            "--num-proc 2 --network-interfaces eth0 --mpi --mpi-args=--map-by=x --seed=-1",
            "--num-proc 2 --network-interfaces eth0 --mpi --mpi-args=--map-by=x",
            "--seed=-1",
        ),
        ("-np 2 --blacklist-cooldown-range 1 9 x", "-np 2 --blacklist-cooldown-range 1 9", "x"),
        ("-np 2 --timeline-filename t -- --verbose -np 3", "-np 2 --timeline-filename t", None),
        ("-np 2 --verbose --verbosity=1", "-np 2 --verbose", "--verbosity=1"),
        ("-np 2 -prefix-timestamp -norm=mbn", "-np 2 -prefix-timestamp", "-norm=mbn"),
    ],
)
def test_options_are_separated_from_flags(line, options, flags):
    request = run_horovod.parse(line.split())
    assert request.options == options.split()
    assert request.flags == (["--verbose", "-np", "3"] if flags is None else flags.split())
    assert request.program == "train"
    assert request.num_workers in (2, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--norm=mbn", "-np, the number of workers, is missing, as in -np 2"),
        ("-np 0", "-np must be a whole number from 1; received 0"),
        ("-np two", "-np must be a whole number from 1; received two"),
        ("-np", "-np takes 1 value(s); received -np"),
        ("-np 2 --gloo=yes", "--gloo takes 0 value(s); received --gloo=yes"),
        ("-np 2 --restarts=x", "--restarts must be a whole number from 0; received x"),
        ("-np 2 --program fly", "--program must be train or evaluate; received fly"),
    ],
)
def test_mistakes_are_one_line_and_status_2(house, line, message):
    result = run(house, *line.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"run_horovod.sh: {message}\n"
    assert not (house / "checks.txt").exists()


def test_flags_are_checked_once_and_workers_started(house):
    result = run(house, "-np", "3", "--program", "evaluate", "--num_steps=10,20", "--a b")
    assert (result.returncode, result.stderr) == (0, "")
    assert (house / "checks.txt").read_text() == "3 --num_steps=10,20 --a b --check\n"
    seen = launched(house)
    assert seen["options"] == ["-np", "3", "--gloo", "env", "--"]
    python = str(house / ".venv/bin/python")
    assert seen["command"] == [python, "-m", "tfadv.evaluate", "--num_steps=10,20", "--a b"]


def test_mpi_replaces_gloo(house):
    run(house, "-np", "2", "--mpi")
    assert launched(house)["options"] == ["-np", "2", "--mpi", "env", "--"]


@pytest.mark.parametrize(
    ("flag", "status", "message"),
    [("--bad", 2, "bad must be good\n"), ("--epsilon=-1", 1, "epsilon must be between 0 and 255;")],
)
def test_a_failed_check_launches_nothing(house, flag, status, message):
    result = run(house, "-np", "2", flag)
    assert result.returncode == status
    assert result.stderr.startswith(message)
    assert not (house / "launched.json").exists()


def test_cores_are_shared_unless_variables_are_set(house):
    run(house, "-np", "2", OMP_NUM_THREADS="7", CUDA_VISIBLE_DEVICES="")
    seen = launched(house)["env"]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert seen["OMP_NUM_THREADS"] == "7"
    assert seen["TF_NUM_INTRAOP_THREADS"] == str(share)
    assert seen["TF_NUM_INTEROP_THREADS"] == str(max(2, share))
    run(house, "-np", "2", "-H", "far:1,away:1", CUDA_VISIBLE_DEVICES="")
    assert "TF_NUM_INTRAOP_THREADS" not in launched(house)["env"]


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ("", True),
        ("-H localhost:2", True),
        ("--hosts=127.0.0.1:1,localhost:1", True),
        ("-H localhost:1,far:1", False),
        ("--hostfile hosts", False),
    ],
)
def test_local(options, local):
    assert run_horovod.parse(options.split()).local is local


def test_output_looks_like_one_process(house):
    result = subprocess.run(
        [house / "run_horovod.sh", "-np", "2", "--bar"],
        cwd=house,
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0
    ours = result.stdout.replace(b"[1] hello from 1\n", b"")
    assert ours == b"hello from 0\n\r1/2 \r2/2 done\n"
    assert b"[1] hello from 1\n" in result.stdout
    assert result.stderr == b"a warning\n"


def test_output_in_pieces():
    messages = launcher.Messages()
    output = launcher.Output(Target(), messages, raw=False, ends=b"\r\n")
    data = b"[0]<stdout>:a\r[0]<stdout>:b[1]<stderr>\n[1,3]<stderr>:c\nTerminating\n"
    data += b"[0]<stdout>:endProcess 0 exit with status code 143.\n[1]<stderr>:Terminated\n"
    data += b"[10]<stdout>:last"
    for i in range(len(data)):
        output.feed(data[i : i + 1])
    output.feed(b"")
    assert output.target.text == b"a\rb[1]<stderr>\n[3] c\nend[10] last"
    # The last one comes from horovodrun's shell, about a worker that was ended.
    ended = b"Process 0 exit with status code 143.\n"
    assert messages.launcher == [b"Terminating\n", ended, b"Terminated\n"]


class Target:
    text = b""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


# What `mpirun --tag-output` of Open MPI 4.1 wrote of two workers.
MPI = (
    b"[1,1]<stdout>:hello[1,1]<stdout>: [1,1]<stdout>:1[1,1]<stdout>:\n"
    b"[1,0]<stdout>:\r0/4 bar[1,0]<stdout>:\r1/4 bar[1,1]<stdout>:more[1,0]<stdout>: done\n"
    b"[1,0]<stdout>:epoch    time\n[1,1]<stdout>: of 1\n[1,0]<stdout>:part[1,0]<stdout>:ial"
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_marks_of_mpirun_are_taken_out_of_lines(size):
    output = launcher.Output(Target(), launcher.Messages(), raw=False, ends=b"\n")
    for i in range(0, len(MPI), size):
        output.feed(MPI[i : i + size])
    output.feed(b"")
    assert output.target.text == (
        b"[1] hello 1\n\r0/4 bar\r1/4 bar done\nepoch    time\n[1] more of 1\npartial"
    )


def test_a_warning_by_horovod_is_shown_without_its_path():
    messages = launcher.Messages()
    output = launcher.Output(Target(), messages, raw=False, ends=b"\r\n", stderr=True)
    where = b"[1]<stderr>:[2026-11-27 19:20:20.285813: %b /tmp/pip-1/horovod_2c/horovod/common/%b] "
    output.feed(where % (b"W", b"stall_inspector.cc:107") + b"One or more tensors wait\n")
    output.feed(where % (b"E", b"operations.cc:697") + b"[0]: Read error\n")
    assert output.target.text == b"[1] warning by Horovod: One or more tensors wait\n"
    assert messages.horovod == [b"[0]: Read error"]


@pytest.mark.parametrize(
    "text, first",
    [
        ("Process name: 1\nExit code: -9\n", (1, -9)),
        (
            "The first process to do so was:\n\n  Process name: [[2533,1],1]\n  Exit code:    3\n",
            (1, 3),
        ),
        (
            "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).",
            (1, 137),
        ),
        ("there are not enough slots", None),
    ],
)
def test_which_worker_ended_first(text, first):
    assert launcher.Messages(launcher=[text.encode()]).first == first


@pytest.mark.parametrize(
    "hosts, line",
    [
        ("a:1,b:2", "worker 1 on b ended first, with status 3; the others were stopped"),
        ("localhost:3", "worker 1 ended first, with status 3; the others were stopped"),
    ],
)
def test_the_machine_of_the_worker_that_ended_first_is_named(hosts, line):
    request = run_horovod.parse(["-np", "3", "-H", hosts])
    messages = launcher.Messages(machines=request.machines)
    messages.launcher = [b"Process name: 1\nExit code: 3\n"]
    assert launcher.reason(messages) == line
    messages.launcher = [b"Process name: 1\nExit code: 255\n"]
    lost = "status 255 (a signal ended it, or ssh lost its machine);"
    assert (lost in launcher.reason(messages)) == (hosts != "localhost:3")


def test_a_workers_status_reaches_the_user_without_horovodruns_traceback(house):
    result = run(house, "-np", "2", "--late")
    assert result.returncode == 2
    assert result.stderr == "image 7 cannot be read: cat.jpg\n"
    assert "Process" not in result.stdout


@pytest.mark.parametrize(
    "end, given, status",
    [
        ("status 75", "", 75),  # it ran elsewhere, without our file
        ("status 2", "75", 2),  # and horovodrun has stopped another worker, which has the file
        ("status 1", "75", 1),
        ("error worker 0 stopped, since another one ended", "75", 75),
        ("signal 9", "75", 75),
    ],
)
def test_the_status_of_a_worker_on_another_machine_reaches_the_user(house, end, given, status):
    (house / "plan.txt").write_text(end)
    result = run(house, "-np", "2", "--plan", f"--given={given}")
    assert result.returncode == status, result.stderr


def test_a_crash_is_horovodruns_status_and_one_line(house):
    result = run(house, "-np", "2", "--crash")
    assert result.returncode == 1
    expected = "run_horovod.sh: worker 1 ended first, with status 3; the others were stopped\n"
    assert result.stderr == expected


def test_a_worker_that_is_killed_is_named_with_its_signal(house):
    (house / "plan.txt").write_text("signal 9\nsignal 9 75")
    result = run(house, "-np", "2", "--plan")
    assert result.returncode == 1
    line = result.stderr
    assert line == (
        "run_horovod.sh: worker 0 ended first, with status 137 (SIGKILL); the others were stopped\n"
    )
    result = run(house, "-np", "2", "--plan")
    assert (result.returncode, result.stderr) == (75, line)


def test_horovods_log_comes_after_our_lines_and_without_its_paths(house):
    result = run(house, "-np", "2", "--horovod")
    assert result.returncode == 1 and "operations.cc" not in result.stdout
    ours, last = result.stderr.splitlines()
    assert ours == "tfadv.train: worker 0 stopped, since another one ended"
    assert re.fullmatch(
        r"run_horovod.sh: worker \d ended first, with status 1; the others were stopped "
        r"\(Horovod: Read error \[127.0.0.1\]:39849: Connection reset by peer\)",
        last,
    )
    # Raw output is shown as it comes.
    assert "operations.cc:697" in run(house, "-np", "2", "--horovod", "--verbose").stderr


def test_horovodruns_own_failure_is_one_line(house):
    result = run(house, "-np", "2", STUB_FAILS="1")
    assert result.returncode == 1
    assert result.stderr == (
        "run_horovod.sh: horovodrun failed: ValueError: there are not enough slots\n"
    )


def start(house, *arguments, **variables):
    """Starts the script, and returns when both workers wait for a signal."""
    process = subprocess.Popen(
        [house / "run_horovod.sh", "-np", "2", *arguments],
        cwd=house,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes this process ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not all((house / f"ready-{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_workers_who_may_finish(house, number):
    process = start(house, "--wait")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    # Each worker receives the signal that was sent.
    for rank in (0, 1):
        assert (house / f"saved-{rank}").read_text() == signal.Signals(number).name
    assert stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_that_do_not_handle_signals_yet_end_without_a_traceback(house, number):
    process = start(house, "--wait", "--unready")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number and stderr == ""
    assert not (house / "saved-0").exists()


@pytest.mark.parametrize("variables", [{}, {"TFADV_GRACE_SECONDS": "0.1"}])
def test_a_second_signal_or_the_end_of_grace_does_not_wait(house, variables):
    process = start(house, "--wait", STUB_SECONDS="30", **variables)
    process.send_signal(signal.SIGTERM)
    if not variables:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=25)
    # If two signals come together, either may be handled first.
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert not (house / "saved-0").exists()


def test_a_signal_reaches_workers_if_all_are_on_other_machines(tmp_path, monkeypatch):
    status_file = tmp_path / "status"
    ssh = tmp_path / "ssh"  # it runs the command here
    ssh.write_text('#!/bin/sh\necho "$1 $2" >>"$0.log"\nexec sh -c "$3"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ours = {**os.environ, "TFADV_STATUS_FILE": str(status_file)}
    sleep = "import signal, time; signal.signal(15, lambda *_: exit(75)); print(flush=True)"
    sleep = f"{sleep}; time.sleep(60)"
    launch = types.SimpleNamespace(status_file=status_file)
    with subprocess.Popen(
        # What horovodrun's ssh looks like.
        ["ssh", "-c", sleep, f"cd x; env TFADV_STATUS_FILE={status_file} python"],
        executable=sys.executable,
        env=ours,
        stdout=subprocess.PIPE,
    ) as connection:
        connection.stdout.readline()
        # No worker is there, neither here nor by ssh.
        assert launcher.Launch.stop_elsewhere(launch, signal.SIGTERM) is False
        with subprocess.Popen(
            [sys.executable, "-c", sleep],
            env={**ours, "HOROVOD_RANK": "0"},
            stdout=subprocess.PIPE,
        ) as worker:
            worker.stdout.readline()
            assert launcher.Launch.stop_elsewhere(launch, signal.SIGTERM) is True
            assert worker.wait(20) == 75
        connection.kill()
    assert (tmp_path / "ssh.log").read_text().splitlines() == [f"-c {sleep}"] * 2


def test_a_signal_goes_to_other_machines_in_the_order_of_their_ranks(tmp_path):
    status_file = tmp_path / "status"
    ours = f"TFADV_STATUS_FILE={status_file}"
    lines = [f"cd x; env HOROVOD_RANK={rank} {ours} python" for rank in (10, 2, 0)]
    wait = "print(flush=True); input()"
    with contextlib.ExitStack() as stack:
        for line in lines:
            process = subprocess.Popen(
                ["ssh", "-c", wait, line],
                executable=sys.executable,
                env={**os.environ, "TFADV_STATUS_FILE": str(status_file)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            process.stdout.readline()
        assert [command[-1] for command in launcher.ssh_commands(status_file)] == lines[::-1]


def test_starts_again_from_the_newest_checkpoint(house):
    flags = "-np 2 --gets-on --restarts=5 --seed=3".split()
    result = run(house, *flags, TFADV_RESTART_SECONDS="0.1")
    assert result.returncode == 0
    first, *again = (house / "starts.txt").read_text().splitlines()
    assert first == "--gets-on --seed=3"
    assert again == [f"--gets-on --seed=3 --run_dir={house}/run --resume"] * 2
    reason = "run_horovod.sh: worker 0 ended first, with status 3; the others were stopped"
    restart = "run_horovod.sh: ended with status 1; restart {} of 5, from {}.keras, in {} s"
    assert result.stderr.splitlines() == [
        reason,
        restart.format(1, "epoch-0000-step-000100", 0.1),
        reason,
        restart.format(2, "epoch-0001", 0.2),
    ]


@pytest.mark.parametrize(
    "plan, status, last",
    [
        # The worker is killed while it starts.
        ("signal 9|signal 9|signal 15|end", 0, "restart 3 of 3, from the beginning, in 0.04 s"),
        # Errors are equal if their last lines are, without the log lines that follow.
        ("error disk full|error no disk|error no disk", 1, "twice, before its first checkpoint"),
        ("save error full|save error full|error full", 1, "twice, after epoch-0002.keras"),
    ],
)
def test_restarts_are_used_unless_the_same_error_ends_the_run_twice(house, plan, status, last):
    plan = plan.split("|")
    (house / "plan.txt").write_text("\n".join(plan))
    result = run(house, *"-np 2 --plan --restarts=3".split(), TFADV_RESTART_SECONDS="0.01")
    assert result.returncode == status, result.stderr
    starts = (house / "starts.txt").read_text().splitlines()
    assert starts == ["--plan"] + [f"--plan --run_dir={house}/run --resume"] * (len(plan) - 1)
    assert result.stderr.splitlines()[-1].endswith(last)


# How each run ends: with an error, or "-" for a signal; * means that it wrote a checkpoint.
@pytest.mark.parametrize(
    "ends, times, starts, last",
    [
        ("-,-,-,-,-,-,-,-,-,end", 9, 10, "ended with status 1; restart 9 of 9, from the beginning"),
        ("-,-,-", 2, 3, "not started again: it was started again 2 times"),
        ("*-,-,-,*-,end", 4, 5, "restart 4 of 4, from 4.keras"),
        ("full,-,full,-,full,end", 5, 6, "restart 5 of 5, from the beginning"),
        ("full,net,full,net,end", 4, 5, "restart 4 of 4, from the beginning"),
        ("full,full,end", 9, 2, "the same error ended it twice, before its first checkpoint"),
        ("-,-,full,full,end", 9, 4, "the same error ended it twice, before its first checkpoint"),
        ("*full,*full,*full,end", 3, 4, "restart 3 of 3, from 3.keras"),
        ("*-,full,full,end", 9, 3, "the same error ended it twice, after 1.keras"),
        ("full,full", 0, 1, ""),
    ],
)
def test_when_a_training_is_started_again(ends, times, starts, last, monkeypatch, capsys):
    monkeypatch.setenv("TFADV_RESTART_SECONDS", "0")
    launch = types.SimpleNamespace(signal=None, error=None)
    ends, past, checkpoint = ends.split(","), [], None

    def start(again):
        nonlocal checkpoint
        assert again == bool(past)
        end = ends[len(past)]
        past.append(end)
        if end.startswith("*"):
            checkpoint = (len(past), f"{len(past)}.keras")
        launch.error = {"-": None}.get(end.strip("*"), end.strip("*"))
        return 0 if end == "end" else 1

    monkeypatch.setattr(launcher, "newest", lambda run: checkpoint)
    status = launcher.supervise(start, launch, "run", times)
    assert status == (0 if past[-1] == "end" else 1)
    printed = capsys.readouterr().err.splitlines()
    assert len(past) == starts and last in (printed[-1] if printed else ""), printed


@pytest.mark.parametrize(
    "first, last_words, error",
    [
        ("1", b"tfadv.train: disk full", "status 1: tfadv.train: disk full"),
        ("3", None, "status 3: "),
        ("137", b"anything", None),  # SIGKILL
        ("-15", b"anything", None),
        ("75", b"anything", None),  # asked to stop
        ("255", b"anything", None),  # ssh lost the machine
        ("1", b"tfadv.train: worker 1 stopped, since another one ended", None),
    ],
)
def test_what_counts_as_an_error_of_the_program(first, last_words, error):
    messages = launcher.Messages(errors={0: b"another"} | ({1: last_words} if last_words else {}))
    messages.launcher = [b"no slots\n"]
    # If no worker failed, the error is horovodrun's own.
    assert launcher.error(messages, 1) == "horovodrun failed: no slots"
    assert launcher.error(messages, 143) is None
    messages.launcher = [f"Process name: 1\nExit code: {first}\n".encode()]
    assert launcher.error(messages, 1) == error


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert launcher.newest(tmp_path) is None
    for second, name in enumerate(["epoch-0009.keras", "epoch-0002-step-000007.keras"], 1):
        (folder / name).touch()
        os.utime(folder / name, (second, second))
        (folder / f"best-{second}.keras").touch()
        assert launcher.newest(tmp_path)[-1] == name


def test_a_users_mistake_is_not_started_again(house):
    result = run(house, *"-np 2 --late --restarts=2".split(), TFADV_RESTART_SECONDS="0.1")
    assert (result.returncode, result.stderr) == (2, "image 7 cannot be read: cat.jpg\n")


def test_a_signal_ends_the_restarts(house):
    process = start(house, "--wait", "--restarts=3")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and stderr == ""
    with subprocess.Popen(
        [house / "run_horovod.sh", "-np", "2", "--gets-on", "--in-vain", "--restarts=3"],
        cwd=house,
        env=environment(TFADV_RESTART_SECONDS="60"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "ended first" in process.stderr.readline()
        assert "in 60 s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 75  # there is a checkpoint


def test_restarts_of_an_evaluation_are_those_of_its_attack():
    request = run_horovod.parse("-np 2 --restarts=3 --limit=4 --program evaluate".split())
    assert (request.flags, request.restarts) == (["--restarts=3", "--limit=4"], 0)
    request = run_horovod.parse("-np 2 --restarts 3 --limit=4 --restarts=2 -- --restarts=5".split())
    assert (request.flags, request.restarts) == (["--limit=4", "--restarts=5"], 2)


@pytest.fixture
def real(house):
    """The checkout with the real horovodrun and its environment."""
    pytest.importorskip("horovod")
    horovodrun = Path(sys.executable).parent / "horovodrun"
    if not horovodrun.exists():
        pytest.skip("horovodrun is not beside this Python")
    shutil.rmtree(house / ".venv")
    (house / ".venv" / "bin").mkdir(parents=True)
    wrapper = house / ".venv" / "bin" / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    return house


@pytest.mark.slow
def test_the_real_horovodrun(real):
    # horovodrun has options that begin with --network too.
    result = run(real, "-np", "2", "--late", "--bar", "--network=resnet")
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["a warning", "image 7 cannot be read: cat.jpg"]
    assert "hello from 0\n" in result.stdout and "Process" not in result.stdout


@pytest.mark.slow
def test_the_real_horovodrun_lets_workers_take_longer_than_its_5_seconds(real):
    process = start(real, "--wait", STUB_SECONDS="8")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert (real / "saved-0").exists() and (real / "saved-1").exists()
    assert stderr == ""


def test_help():
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "run_horovod.py", "--help"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout.strip() == run_horovod.__doc__.strip()
