"""The launch under Slurm, with stand-ins for `srun` and `scontrol` and real Horovod workers."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import run_slurm

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Starts tasks and returns their status as srun does: two on one node, one on another, all local.
SRUN = """#!{python}
import os, subprocess, sys
options = [argument for argument in sys.argv[1:] if argument.startswith("--")]
assert "--kill-on-bad-exit=1" in options and "--ntasks=3" in options, options
command = sys.argv[1 + next(i for i, a in enumerate(sys.argv[1:]) if not a.startswith("--")):]
tasks = []
for rank in range(3):
    place = dict(SLURM_PROCID=str(rank), SLURM_NODEID=str(rank // 2), SLURM_LOCALID=str(rank % 2))
    tasks.append(subprocess.Popen(command, env=dict(os.environ, **place)))
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = "#!/bin/sh\n[ $# = 3 ] && printf 'localhost\\n127.0.0.1\\n'\n"


@pytest.fixture
def cluster(tmp_path):
    """The environment of a batch job."""
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_TASKS_PER_NODE": "2,1",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }


def launch(environment, *flags):
    return subprocess.run(
        [sys.executable, "tools/run_slurm.py", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_first_node_is_named_as_the_others_reach_it(monkeypatch):
    names = {"a": "127.0.1.1", "b": "10.0.0.2"}
    monkeypatch.setattr(run_slurm.socket, "gethostbyname", names.__getitem__)
    monkeypatch.setattr(run_slurm, "_own_address", {"b": "10.0.0.1"}.__getitem__)
    assert run_slurm.address(["a", "b"]) == "10.0.0.1"
    assert run_slurm.address(["b", "a"]) == "10.0.0.2"
    assert run_slurm.address(["a"]) == "127.0.1.1"


# Runs a copy of a script as sbatch does, with the log in the directory where sbatch was called. It
# does not create folders for the log.
SBATCH = """#!{python}
import os, re, shutil, subprocess, sys, tempfile
script, *arguments = sys.argv[1:]
output = re.search(r"^#SBATCH --output=(.*)$", open(script).read(), re.MULTILINE).group(1)
with tempfile.TemporaryDirectory() as spool:
    copy = shutil.copy(script, os.path.join(spool, "slurm_script"))
    os.chmod(copy, 0o700)
    with open(output.replace("%j", "7"), "w") as log:
        environment = dict(os.environ, SLURM_SUBMIT_DIR=os.getcwd(), SLURM_CPUS_PER_TASK="1")
        subprocess.run([copy, *arguments], env=environment, stdout=log, stderr=log)
"""


def test_a_job_from_a_fresh_clone_has_a_log(cluster, tmp_path):
    (tmp_path / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (tmp_path / "sbatch").chmod(0o755)
    clone = tmp_path / "clone"  # a clone after `make setup`
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "tools", clone / "tools")
    script = "tools/slurm.sbatch"
    subprocess.run(["sbatch", script, "--program", "fly"], cwd=clone, env=cluster, check=True)
    (log,) = (path for path in clone.iterdir() if path.is_file())
    assert log.name == "slurm-7.log"
    assert log.read_text().startswith("run_slurm.py: --program must be train")
    # Git must ignore it.
    assert "/slurm-*.log" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.slow
def test_three_tasks_on_two_nodes_are_three_workers(cluster, tmp_path):
    pytest.importorskip("horovod")
    process = launch(
        cluster,
        "--flagfile=flags/quickstart.flags",
        "--epochs=1",
        "--steps_per_epoch=1",
        "--batch_size=6",
        "--images_per_worker=2",
        "--num_steps=1",
        "--eval_num_steps=",
        "--width=4",
        f"--run_dir={tmp_path}/run",
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert "batch:       6 images = 3 workers x 2 images x 1 accumulated step;" in process.stdout
    assert process.stdout.count("model:") == 1
    assert (tmp_path / "run" / "model.keras").is_file()


@pytest.mark.parametrize(
    "flags, without, message",
    [
        (["--program", "fly"], None, "run_slurm.py: --program must be train"),
        (["--norm=mbn"], "SLURM_JOB_NODELIST", "run_slurm.py: this must run inside a Slurm job"),
        # Checked before srun, for as many workers as there will be: 64 images over 32 x 3.
        (
            ["--flagfile=flags/quickstart.flags"],
            None,
            "tfadv.train: batch_size must be a multiple of images_per_worker=32 times 3 workers",
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(cluster, flags, without, message):
    cluster.pop(without, None)
    process = launch(cluster, *flags)
    assert process.returncode == 2
    assert process.stderr.startswith(message) and process.stderr.count("\n") == 1


def test_the_status_is_that_of_rank_0_even_if_srun_returns_another(cluster, tmp_path):
    pytest.importorskip("horovod")
    (tmp_path / "tfadv").mkdir()
    (tmp_path / "tfadv" / "__init__.py").touch()
    (tmp_path / "tfadv" / "train.py").write_text(
        "import os, sys\n"
        "if '--check' not in sys.argv:\n"
        "    rank = os.environ['HOROVOD_RANK']\n"
        "    if rank == '0':\n"
        "        open(os.environ['TFADV_STATUS_FILE'], 'w').write('75')\n"
        "    sys.exit(143 if rank == '2' else 75)\n"
    )
    process = subprocess.run(
        [sys.executable, ROOT / "tools" / "run_slurm.py"],
        cwd=tmp_path,
        env={**cluster, "PYTHONPATH": str(tmp_path)},
        timeout=120,
    )
    assert process.returncode == 75


# Keeps what it is told, as far as a job needs it; a requeue does not end the job.
STATEFUL_SCONTROL = """#!/bin/sh
case "$1 $2" in
  "show hostnames") printf 'localhost\\n127.0.0.1\\n';;
  "show job") echo "JobId=$3 JobState=$STATE Requeue=1 BatchFlag=1";;
  update*) [ "$2" = JobId=7 ] && echo "${{3#Comment=}}" >{folder}/comment;;
  requeue*) echo "$2" >>{folder}/requeued;;
esac
"""
STOPPED = """
import os, sys
from pathlib import Path
run = os.path.abspath("a run")
if "--check" in sys.argv:
    Path(os.environ["TFADV_RUN_FILE"]).write_text(run)
    sys.exit(0)
first = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
assert sys.argv[1:] == ["--norm=mbn"] + ([] if first else ["--run_dir=" + run, "--resume"])
if os.environ["HOROVOD_RANK"] == "0":
    if "EARLY" not in os.environ:
        Path(run, "checkpoints").mkdir(parents=True, exist_ok=True)
        Path(run, "checkpoints", "epoch-0001.keras").touch()
    Path(os.environ["TFADV_STATUS_FILE"]).write_text("75" if first else "0")
sys.exit(75 if first else 0)
"""


def test_a_job_that_stops_after_a_checkpoint_is_requeued_and_resumes(cluster, tmp_path):
    pytest.importorskip("horovod")
    expected = "--noheader --jobs=7 --format=%k"
    for name, text in {
        "scontrol": STATEFUL_SCONTROL.format(folder=tmp_path),
        "squeue": f'#!/bin/sh\n[ "$*" = "{expected}" ] && cat {tmp_path}/comment',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "tfadv").mkdir()
    (tmp_path / "tfadv" / "__init__.py").touch()
    (tmp_path / "tfadv" / "train.py").write_text(STOPPED)
    job = {**cluster, "PYTHONPATH": str(tmp_path), "SLURM_JOB_ID": "7", "STATE": "RUNNING"}

    def run(**variables):
        command = [sys.executable, ROOT / "tools" / "run_slurm.py", "--norm=mbn"]
        return subprocess.run(command, cwd=tmp_path, env={**job, **variables}, timeout=120)

    assert run(EARLY="yes").returncode == 75  # before its first checkpoint
    assert run(STATE="CANCELLED").returncode == 75
    assert not (tmp_path / "requeued").exists()
    assert run().returncode == 75
    assert (tmp_path / "requeued").read_text() == "7\n"
    assert run(SLURM_RESTART_COUNT="1").returncode == 0
    assert (tmp_path / "requeued").read_text() == "7\n"


WAITS = """
import os, signal, sys, time
from pathlib import Path
if "--check" in sys.argv:
    sys.exit(0)
rank = os.environ["HOROVOD_RANK"]
def stop(number, frame):  # a second signal would end it, as it ends a training
    signal.signal(number, signal.SIG_DFL)
    time.sleep(1)
    if rank == "0":
        Path(os.environ["TFADV_STATUS_FILE"]).write_text("75")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
Path("waits-" + rank).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("slurm_signals_tasks", [False, True])
def test_sigterm_to_the_batch_script_stops_the_workers_once(cluster, tmp_path, slurm_signals_tasks):
    pytest.importorskip("horovod")
    (tmp_path / "tfadv").mkdir()
    (tmp_path / "tfadv" / "__init__.py").touch()
    (tmp_path / "tfadv" / "train.py").write_text(WAITS)
    with subprocess.Popen(
        [sys.executable, ROOT / "tools" / "run_slurm.py"],
        cwd=tmp_path,
        env={**cluster, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    ) as job:
        paths = [tmp_path / f"waits-{rank}" for rank in range(3)]
        deadline = time.monotonic() + 60
        while not all(path.exists() and path.read_text() for path in paths):
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)
        if slurm_signals_tasks:
            for path in paths:
                os.kill(int(path.read_text()), signal.SIGTERM)
            time.sleep(0.2)
        # The signal before a time limit goes to the script and all that it has started.
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(30) == 75


def test_tasks_per_node():
    assert run_slurm.tasks_per_node("8(x2),4") == [8, 8, 4]
    assert run_slurm.tasks_per_node("2") == [2]
