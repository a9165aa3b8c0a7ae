"""Kills a training on two workers again and again, resumes it, and compares the results.

    make chaos                                   (ARGS="--seed=1 --each=2" for other, fewer kills)
    python tools/chaos.py [--seed=0] [--each=5] [--others=8] [--output=FILE]

A small training runs once undisturbed. Then the same training is started, killed with -9 and
resumed until it finishes, and so on with new runs until all planned kills are spent: `each` inside
an attack, an all-reduce, the writing of a checkpoint, its renaming, an epoch's end and the switch
to running statistics, and `others` at random moments; of one worker or of all. Every time the
weights, the optimizer, the log and TensorBoard must equal those of the undisturbed run.

The workers are real and run under horovodrun. Each of them is this file again, as
`python tools/chaos.py worker FLAGS`: it trains like tfadv.train and kills when its moment comes.
"""
# ruff: noqa: E402 - TensorFlow reads its environment when it is imported.

import argparse
import contextlib
import dataclasses
import datetime
import io
import itertools
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from hashlib import sha256
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from tfadv import callbacks, checkpoint_files, distributed, event_files, launcher, models
from tfadv.programs import building, start
from tfadv.training import adversarial_step, checkpoints

WORKERS = 2
EPOCHS, STEPS, LAST_EPOCHS = 5, 4, 2
# Mixture batch normalization, evaluations in training, running statistics in the last epochs, and
# a checkpoint within an epoch whenever a fifth of a second has passed.
FLAGS = f"""
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=mbn
    --epsilon=80 --step_size=10 --num_steps=2 --epochs={EPOCHS} --steps_per_epoch={STEPS}
    --running_statistics={LAST_EPOCHS} --batch_size=8 --images_per_worker=4
    --learning_rate=2 --warmup_epochs=0 --decay_epochs=3 --eval_num_steps=10 --eval_every=1
    --eval_limit=10 --strong_eval_num_steps= --image_pairs=1 --checkpoint_minutes=0.003
""".split()

# --------------------------------------------------------------------------- what to kill, and when

# kind -> moment -> (the latest passage of it to kill at, the longest delay after it in seconds)
MOMENTS = {
    "attack": {"step": (5, 0)},
    "all-reduce": {"waiting": (3, 0.5), "exchange": (1, 0.002)},
    "writing": {"begun": (2, 0), "during": (2, 0.04), "not stamped": (2, 0), "not synced": (2, 0)},
    "renaming": {"before": (3, 0), "after": (3, 0)},
    "epoch's end": {"callback": (12, 0), "record": (12, 0)},
    "switch": {"before": (1, 0), "installed": (1, 0), "tracing": (1, 0), "update": (1, 0)},
    "random": {"starting": (1, 1), "training": (1, 1)},
}
ONLY_RANK_0 = {"writing", "renaming", "record"}  # kinds and moments that other workers never reach


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill -9.

    Attributes:
        kind, moment: Names from `MOMENTS`.
        rank: The worker that reaches the moment and is killed.
        all: Whether all others are killed with it.
        count: At which passage of the moment. At an epoch's end: after how many of the callbacks,
            or at which TensorBoard record.
        delay: Seconds after the moment, while the worker is still inside it. For a random kill, the
            share of the time that an undisturbed run takes to start, or to train.
    """

    kind: str
    moment: str
    rank: int = 0
    all: bool = False
    count: int = 1
    delay: float = 0.0


def plan(seed, each=5, others=8):
    """Draws `each` kills of every kind and `others` at random moments, in a random order."""
    draw = random.Random(seed)
    kills = []
    for kind, moments in MOMENTS.items():
        for moment in itertools.islice(
            itertools.cycle(moments), others if kind == "random" else each
        ):
            passages, delay = moments[moment]
            only_rank_0 = ONLY_RANK_0 & {kind, moment}
            kills.append(
                Kill(
                    kind,
                    moment,
                    rank=0 if only_rank_0 else draw.randrange(WORKERS),
                    all=draw.random() < 0.5,
                    count=draw.randint(1, passages),
                    delay=draw.uniform(0, delay),
                )
            )
    draw.shuffle(kills)
    return kills


def choose(kills, epochs, updates, switch):
    """Takes out of a list the next kill for a run; None if it reaches no more of them.

    Kills in the switch to running statistics are kept for runs that are in the epoch before it,
    until there are no others.

    Args:
        kills: List of `Kill`.
        epochs, updates: Finished epochs of the run, and updates of the next one.
        switch: The first epoch on running statistics, from 0.
    """
    ahead = (epochs, updates) <= (switch, 0)
    near = ahead and epochs >= switch - 1
    kill = next((kill for kill in kills if kill.kind != "switch" or near), None)
    if kill is None and ahead and kills:
        kill = kills[0]
    if kill is not None:
        kills.remove(kill)
    return kill


# ----------------------------------------------------------------------- running, killing, resuming


@dataclasses.dataclass
class Start:
    """One start of a run, from its launch until it finished or was killed.

    Attributes:
        output: Everything that the workers printed.
        killed: Whether the run was killed before it finished.
        updates: Updates of the training so far; None before the training.
        seconds: Seconds altogether.
        starting: Seconds before the training.
        ended_after: Seconds from the kill until all workers had ended.
    """

    output: str
    killed: bool
    updates: int | None
    seconds: float
    starting: float
    ended_after: float


def run(directory, flags=FLAGS, kill=None, usual=None, timeout=900):
    """Starts a run, or resumes it, and waits until it finishes or is killed.

    Args:
        directory: Directory of the run.
        flags: Flags of tfadv.train.
        kill: A `Kill`, or None.
        usual: Dictionary of the seconds that an undisturbed run takes, `"starting"` and
            `"training"`, from which a random kill has its time.
        timeout: Seconds.

    Returns:
        A `Start`.

    Raises:
        RuntimeError: If the run fails without being killed, or takes too long.
    """
    command = [Path(sys.executable).parent / "horovodrun", "-np", str(WORKERS), "--gloo"]
    # Without `env --` it takes --network for an abbreviation of its own options.
    command += [
        "env",
        "--",
        sys.executable,
        __file__,
        "worker",
        *flags,
        f"--run_dir={directory}",
        "--resume",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_DETERMINISTIC_OPS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
    }
    with tempfile.TemporaryDirectory(prefix="tfadv-chaos-") as name:
        folder = Path(name)
        struck = folder / "struck"
        if kill is not None:
            (folder / "kill").write_text(json.dumps(dataclasses.asdict(kill)))
        began = time.time()
        trains = alive = None
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                command,
                env=environment | {"TFADV_CHAOS_DIR": name},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            while process.poll() is None:
                now = time.time()
                pids = processes(folder)
                if trains is None and (folder / "updates-0").exists():
                    trains = now
                if any(map(is_running, pids.values())):
                    alive = now
                since = began if kill and kill.moment == "starting" else trains
                if kill and kill.kind == "random" and since and len(pids) == WORKERS:
                    if now >= since + kill.delay * usual[kill.moment] and not struck.exists():
                        strike(folder, kill)
                if now > began + timeout:
                    raise RuntimeError(f"a run with {kill} took longer than {timeout} s")
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.terminate()
                strike(folder)
                process.wait()
        output = (folder / "output").read_text(errors="replace")
        # A kill can come too late for a run that has already finished.
        killed = process.returncode != 0 and struck.exists()
        if process.returncode and not killed:
            raise RuntimeError(f"status {process.returncode} with {kill}:\n{output[-4000:]}")
        updates = [int(path.read_text() or 0) for path in folder.glob("updates-*")]
        return Start(
            output,
            killed,
            max(updates, default=None),
            seconds=time.time() - began,
            starting=(trains or time.time()) - began,
            ended_after=max(0.0, alive - struck.stat().st_mtime) if killed else 0.0,
        )


def strike(folder, kill=None):
    """Kills the workers of a kill, or all of them; from outside or from within one of them."""
    (folder / "struck").touch()
    every = kill is None or kill.all
    victims = [pid for rank, pid in processes(folder).items() if every or rank == kill.rank]
    for pid in sorted(victims, key=lambda pid: pid == os.getpid()):  # this process last
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes(folder):
    """Returns the workers' process ids by rank."""
    names = [path.name.split("-") for path in folder.glob("pid-*")]
    return {int(rank): int(pid) for _, rank, pid in names}


def is_running(pid):
    """Returns whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CONTINUED = re.compile(r", continued after (?:epoch (\d+))?(?: and )?(?:(\d+) updates?)?")


def disturb(directory, kills, flags=FLAGS, steps=STEPS, switch=EPOCHS - LAST_EPOCHS, **options):
    """Starts one run again and again until it finishes, killing it on the way.

    Args:
        directory: Directory of the run; it must not exist yet.
        kills: List of `Kill`; those that take place are removed.
        flags: Flags of tfadv.train.
        steps: Updates of an epoch.
        switch: The first epoch on running statistics, from 0.
        **options: Arguments of `run`.

    Returns:
        A list of dictionaries, one for each kill.
    """
    done, unresumed = [], None  # the last kill after which no start has said where it continues
    saved = (0, 0)  # finished epochs and updates of the next one in the newest checkpoint
    while True:
        kill = choose(kills, *saved, switch)
        started = run(directory, flags, kill, **options)
        continued = CONTINUED.search(started.output)
        if unresumed and (continued or "run:  " in started.output):
            epochs, updates = (int(n or 0) for n in continued.groups()) if continued else (0, 0)
            again = unresumed["updates"] - (epochs * steps + updates)
            unresumed["lost_epochs"] = max(0, unresumed["finished_epochs"] - epochs)
            unresumed["updates_again"] = max(0, again)
            unresumed = None
        if not started.killed:
            if kill is not None:
                # A run may be faster than the undisturbed one, and end before a random kill.
                sooner = kill.delay / 2 if kill.kind == "random" else kill.delay
                kills.append(dataclasses.replace(kill, delay=sooner))
            print(f"     the run finished, {started.seconds:.0f} s", flush=True)
            return done
        saved = max(checkpoint_files.find(directory / "checkpoints"), default=(0, 0))
        done.append(
            {
                **dataclasses.asdict(kill),
                "finished_epochs": saved[0],
                "updates": started.updates or 0,
                "ended_after": round(started.ended_after, 2),
                "seconds": round(started.seconds, 1),
            }
        )
        if unresumed is None or started.updates:
            unresumed = done[-1]
        print(
            f"{len(done):3}  {kill.kind}, {kill.moment}: "
            f"{'all workers' if kill.all else f'worker {kill.rank}'} after update "
            f"{started.updates}, {started.seconds:.0f} s; checkpoint: epoch {saved[0]} and "
            f"{saved[1]} updates",
            flush=True,
        )


# ----------------------------------------------------------------------------------- the comparison

TIMES = ("seconds", "communication_share")  # these differ between any two runs


def compare(directory, expected):
    """Counts the differences between two runs.

    Args:
        directory: Directory of a run that was killed and resumed.
        expected: Directory of an undisturbed run.

    Returns:
        A dictionary: the number of `bits` of weights and optimizer variables compared in all
        models, of `differing_bits`, of `log_lines` and of TensorBoard `points`; and `differences`,
        a list of texts.
    """
    found, wanted = contents(directory), contents(expected)
    differences = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    differences += [f"{name} should not be there" for name in found.keys() - wanted.keys()]
    bits = differing_bits = 0
    for name in found.keys() & wanted.keys():
        value, other = found[name], wanted[name]
        if isinstance(value, bytes) and len(value) == len(other):
            pair = (np.frombuffer(each, np.uint8) for each in (value, other))
            count = int(np.bitwise_count(np.bitwise_xor(*pair)).sum())
            bits += 8 * len(value)
            differing_bits += count
            if count:
                differences.append(f"{name}: {count} bits differ")
        elif value != other:
            differences.append(f"{name}: {value!r} instead of {other!r}")
    return {
        "bits": bits,
        "differing_bits": differing_bits,
        "log_lines": sum(name.startswith("log.jsonl, line") for name in found),
        "points": sum(len(steps) for name, steps in found.items() if name.endswith(": steps")),
        "differences": sorted(differences),
    }


def contents(directory):
    """Returns everything that a run leaves except measured times, by descriptive names."""
    result = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if not path.name.startswith("events.out.tfevents."):  # each resume adds files
            result[f"file {name}"] = None
        if path.suffix == ".keras" and path.is_file():
            try:
                result[f"{name}, progress"] = repr(checkpoint_files.read(path))
                variables = read_variables(path)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                result[str(error)] = None
                continue
            for key, array in variables.items():
                result[f"{name}, type of {key}"] = array.shape, str(array.dtype)
                result[f"{name}, {key}"] = array.tobytes()
    for number, line in enumerate((directory / "log.jsonl").read_text().splitlines()):
        line = json.loads(line)
        result[f"log.jsonl, line {number}"] = {key: line[key] for key in line if key not in TIMES}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about purged events
    everything = dict.fromkeys(("scalars", "images", "histograms"), 0)
    runs = EventMultiplexer(tensor_size_guidance=everything)
    runs.AddRunsFromDirectory(str(directory)).Reload()
    for run, tags in runs.Runs().items():
        for tag in tags["tensors"]:
            events = runs.Tensors(run, tag)
            result[f"TensorBoard {run}, {tag}: steps"] = [event.step for event in events]
            if not tag.startswith("_hparams_") and tag.rpartition("/")[2] not in TIMES:
                values = [event.tensor_proto.SerializeToString() for event in events]
                result[f"TensorBoard {run}, {tag}: digest"] = sha256(b"".join(values)).hexdigest()
    return result


def read_variables(path):
    """Returns the arrays of all variables in a `.keras` file, by their names."""
    names = []
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visit(names.append)
        return {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}


# --------------------------------------------------------------------------------------- the report


def report(kills, compared, seconds):
    """Returns the dictionary for `--output` from all kills and comparisons."""
    kinds = {}
    for kill in kills:
        row = kinds.setdefault(kill["kind"], {"kills": 0, "one": 0, "all": 0, "moments": {}})
        row["kills"] += 1
        row["all" if kill["all"] else "one"] += 1
        row["moments"][kill["moment"]] = row["moments"].get(kill["moment"], 0) + 1

    def total(name):
        return sum(each[name] for each in compared)

    return {
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "workers": WORKERS,
        "kills": len(kills),
        "by_kind": kinds,
        "runs": len(compared),
        "resumes": len(kills),
        "lost_epochs": sum(kill.get("lost_epochs", 0) for kill in kills),
        "updates_done_again": sum(kill.get("updates_again", 0) for kill in kills),
        "longest_end_of_other_workers_seconds": max(
            (kill["ended_after"] for kill in kills if not kill["all"]), default=0.0
        ),
        "compared_bits": total("bits"),
        "differing_bits": total("differing_bits"),
        "log_lines": total("log_lines"),
        "tensorboard_points": total("points"),
        "differences": [text for each in compared for text in each["differences"]],
        "seconds": round(seconds),
        "each": kills,
    }


def table(result):
    """Returns the report as Markdown."""
    rows = [
        f"| {kind} ({', '.join(f'{n} {moment}' for moment, n in row['moments'].items())}) | "
        f"{row['kills']} | {row['one']} | {row['all']} |"
        for kind, row in result["by_kind"].items()
    ]
    return "\n".join(
        [
            "| killed in | kills | one worker | all workers |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{result['kills']} kills, {result['resumes']} resumes, {result['runs']} runs; "
            f"lost epochs: {result['lost_epochs']}; updates done again: "
            f"{result['updates_done_again']}",
            f"differing bits: {result['differing_bits']} of {result['compared_bits']:,}; "
            f"other differences in {result['log_lines']} lines of the logs and "
            f"{result['tensorboard_points']:,} points of TensorBoard: {len(result['differences'])}",
            "where one worker was killed, the others ended within "
            f"{result['longest_end_of_other_workers_seconds']:.1f} s",
        ]
    )


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="Seed of the kills.")
    parser.add_argument("--each", type=int, default=5, help="Number of kills of every kind.")
    parser.add_argument("--others", type=int, default=8, help="Number of kills at random moments.")
    parser.add_argument("--output", default=ROOT / "benchmarks/results/chaos.json", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `run` then ends the workers

    began, kills = time.time(), plan(options.seed, options.each, options.others)
    done, compared = [], []
    with tempfile.TemporaryDirectory(prefix="tfadv-chaos-") as name:
        expected = Path(name, "undisturbed")
        first = run(expected)
        usual = {"starting": first.starting, "training": first.seconds - first.starting}
        print("undisturbed:", ", ".join(f"{usual[key]:.0f} s {key}" for key in usual), flush=True)
        while kills:
            directory = Path(name, f"run-{len(compared)}")
            done += disturb(directory, kills, usual=usual)
            compared.append(compare(directory, expected))
            for text in compared[-1]["differences"]:
                print(f"     {text}", flush=True)
            shutil.rmtree(directory)
    result = report(done, compared, time.time() - began)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return int(bool(result["differences"] or result["lost_epochs"] or result["differing_bits"]))


# ---------------------------------------------------------------------------------- within a worker


class Point:
    """The moment at which this worker kills."""

    def __init__(self, kill, folder):
        self.kill = kill
        self.folder = folder
        self.mine = launcher.rank() == kill.rank
        self.passed = 0
        self.timer = threading.Timer(0, strike)  # never started

    def reach(self, kind, moment, count=None):
        """Kills if this is the moment, and its passage the `count`th."""
        if self.mine and (kind, moment) == (self.kill.kind, self.kill.moment):
            self.passed += 1
            if self.passed == (count or self.kill.count):
                strike(self.folder, self.kill)

    def enter(self, kind, moment):
        """Kills after the delay unless `leave` is called before; later passages try again."""
        if (kind, moment) == (self.kill.kind, self.kill.moment):
            self.passed += 1
            if self.mine and self.passed >= self.kill.count:
                self.timer = threading.Timer(self.kill.delay, strike, (self.folder, self.kill))
                self.timer.daemon = True
                self.timer.start()

    def leave(self):
        self.timer.cancel()


def watch(owner, name, before=None, after=None):
    """Has a function of a class or module call others, with its arguments, before and after it."""
    function = getattr(owner, name)

    def watched(*arguments):
        if before is not None:
            before(*arguments)
        result = function(*arguments)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, name, watched)


def in_graph(function):
    """Returns an operation that calls a function when its turn in the graph comes."""
    return tf.numpy_function(lambda: function() or np.True_, [], tf.bool)


def watch_attack(point):
    """Watches every gradient of an attack, in training and in its evaluations."""

    class Attacked(models.Frozen):
        def prepare(self):
            logits = super().prepare()

            def watched(images):
                with tf.control_dependencies([in_graph(lambda: point.reach("attack", "step"))]):
                    return logits(tf.identity(images))

            return watched

    models.Frozen = Attacked


def watch_all_reduce(point):
    """Watches an update's all-reduce, from before its tensors are sent until their means arrive."""
    mean = distributed.mean

    def enter():
        point.enter("all-reduce", point.kill.moment)
        if not point.mine and (point.kill.moment, point.passed) == ("waiting", point.kill.count):
            time.sleep(2)  # the other worker waits for this one

    def watched(tensors, name, half=0):
        with tf.control_dependencies(tensors):
            entered = in_graph(enter)
        with tf.control_dependencies([entered]):
            tensors = [tf.identity(tensor) for tensor in tensors]
        means = mean(tensors, name, half)
        with tf.control_dependencies(means):
            left = in_graph(point.leave)
        with tf.control_dependencies([left]):
            return [tf.identity(tensor) for tensor in means]

    distributed.mean = watched


def watch_files(point):
    """Watches the writing of checkpoints, and their renaming and that of the best one."""

    def begin(*_):
        point.reach("writing", "begun")
        point.enter("writing", "during")

    def end(*_):
        point.leave()
        point.reach("writing", "not synced")

    watch(checkpoints, "write", begin, end)
    watch(checkpoint_files, "stamp", before=lambda *_: point.reach("writing", "not stamped"))

    def renaming(moment):
        def reach(path, target):
            if Path(target).parent.name == "checkpoints":
                point.reach("renaming", moment)

        return reach

    watch(Path, "replace", renaming("before"), renaming("after"))


def watch_records(point):
    """Kills when half of a TensorBoard record is written at an epoch's end."""
    write = event_files._Unbuffered.write
    on_epoch_end = callbacks.TrainingScalars.on_epoch_end

    def torn_write(file, data):
        if point.passed + 1 == point.kill.count:
            write(file, data[: len(data) // 2])
        point.reach("epoch's end", "record")
        write(file, data)

    def watched(self, epoch, logs=None):
        with mock.patch.object(event_files._Unbuffered, "write", torn_write):
            on_epoch_end(self, epoch, logs)

    callbacks.TrainingScalars.on_epoch_end = watched


def watch_switch(point):
    """Watches the replacement of the step on batch statistics by the one on running statistics."""

    def installed(callback):
        if callback.step.running_statistics:
            point.reach("switch", "installed")

    def traced(step, data):
        if step.running_statistics:
            point.reach("switch", "tracing")

    watch(callbacks.AdversarialTraining, "install", after=installed)
    watch(adversarial_step.AdversarialStep, "__call__", after=traced)


class Watch(keras.callbacks.Callback):
    """Writes the number of updates to a file for `run`, and watches a place between callbacks."""

    def __init__(self, point, last_epochs):
        super().__init__()
        self.point = point
        self.last_epochs = last_epochs

    def on_train_begin(self, logs=None):
        path = self.point.folder / f"updates-{launcher.rank()}"
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY)
        self.write_updates()

    def on_epoch_begin(self, epoch, logs=None):
        self.at_switch = epoch == self.params["epochs"] - self.last_epochs
        if self.at_switch:
            self.point.reach("switch", "before")

    def on_train_batch_end(self, batch, logs=None):
        self.write_updates()
        if self.at_switch:
            self.point.reach("switch", "update")

    def on_epoch_end(self, epoch, logs=None):
        self.point.reach("epoch's end", "callback", count=1)

    def write_updates(self):
        os.pwrite(self.file, b"%08d" % int(self.model.optimizer.iterations), 0)


def worker(arguments):
    """Runs tfadv.train until the kill that `run` has left in the folder TFADV_CHAOS_DIR."""
    folder = Path(os.environ["TFADV_CHAOS_DIR"])
    (folder / f"pid-{launcher.rank()}-{os.getpid()}").touch()
    kill = Kill("none", "none")
    if (folder / "kill").exists():
        kill = Kill(**json.loads((folder / "kill").read_text()))
    point = Point(kill, folder)
    if kill.kind == "attack":
        watch_attack(point)
    if kill.kind == "all-reduce":
        watch_all_reduce(point)
    if kill.moment == "record":
        watch_records(point)
    watch_files(point)
    watch_switch(point)

    training_callbacks = building.training_callbacks
    scalars = callbacks.TrainingScalars

    def watched_callbacks(settings, *arguments):
        result = training_callbacks(settings, *arguments)
        place = kill.count if kill.kind == "epoch's end" else 1
        result.insert(place, Watch(point, settings.running_statistics))
        return result

    building.training_callbacks = watched_callbacks
    # A TensorBoard point for every update, which no flag asks for.
    building.callbacks.TrainingScalars = lambda log_dir, update_freq: scalars(log_dir, 1)
    sys.argv = ["tfadv.train", *arguments]
    start.main("train")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2:])
    sys.exit(main(sys.argv[1:]))
