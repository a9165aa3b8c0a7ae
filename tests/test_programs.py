"""The programs end to end, on real Horovod workers if there are several."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_multiplexer

import tfadv  # noqa: F401 - registers what saved models are made of
from tests.data import miniature_imagenet
from tfadv import event_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = (
    "--flagfile=flags/quickstart.flags --epochs=2 --steps_per_epoch=3 --batch_size=8 "
    "--images_per_worker=4 --num_steps=2 --eval_every=1 --eval_limit=10 --width=4"
).split()


def program(name, *flags, workers=1, check=True):
    """Runs `python -m tfadv.NAME`, or the launcher script for several workers."""
    command = [sys.executable, "-m", f"tfadv.{name}"]
    if workers > 1:
        if not (pathlib.Path(sys.executable).parent / "horovodrun").exists():
            pytest.skip("needs Horovod")
        command = [sys.executable, "tools/run_horovod.py", "-np", str(workers), "--program", name]
    process = subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check:
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process


def variables(path):
    return {v.path: v.numpy() for v in keras.saving.load_model(path, compile=False).variables}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An uninterrupted run of two epochs on two workers, and its finished process."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    process = program("train", *TINY, f"--run_dir={directory}", workers=2)
    return directory, process


def test_a_run_writes_its_files(run):
    directory, process = run
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6)]
    expected = "loss adv_loss adv_accuracy attack_success clean_loss clean_accuracy accuracy "
    expected += "val_clean_accuracy val_pgd10_accuracy val_pgd10_success learning_rate seconds"
    assert set(expected.split()) <= set(lines[0])
    checkpoints = {path.name for path in (directory / "checkpoints").iterdir()}
    assert {"epoch-0001.keras", "epoch-0002.keras", "best.keras", "best.json"} <= checkpoints
    assert (directory / "statistics.png").read_bytes().startswith(b"\x89PNG")
    flags = (directory / "flags.txt").read_text().splitlines()
    assert "--norm=mbn" in flags and "--batch_size=8" in flags and "--momentum=0.9" in flags
    # Only rank 0 prints.
    assert process.stdout.count("epoch    time    left |") == 1 and "[1]" not in process.stdout
    assert "tensorboard --logdir" in process.stdout
    saved = keras.saving.load_model(directory / "checkpoints/epoch-0002.keras")
    assert int(saved.optimizer.iterations) == 6
    np.testing.assert_equal(
        variables(directory / "model.keras"),
        {variable.path: variable.numpy() for variable in saved.variables},
    )


def shown(directory):
    """Everything that TensorBoard shows of a training: run -> tag -> steps."""
    runs = plugin_event_multiplexer.EventMultiplexer()
    runs.AddRunsFromDirectory(str(directory))
    runs.Reload()
    return {
        run: {tag: [event.step for event in runs.Tensors(run, tag)] for tag in tags["tensors"]}
        for run, tags in runs.Runs().items()
    }


def test_tensorboard_shows_training_and_evaluation(run):
    directory, _ = run
    runs = shown(directory)
    names = {
        "train": (
            *("learning_rate", "loss", "accuracy", "attack_success"),
            *("mean_domain_distance", "statistics/difference_of_branches"),
        ),
        "train/adv": ("loss", "accuracy", "moving_mean/norm0", "gamma/norm0"),
        "train/clean": ("loss", "accuracy", "moving_mean/norm0", "gamma/norm0"),
        "validation": (
            "accuracy/clean",
            "accuracy/pgd10",
            "attack_success/pgd10",
            "adversarial_images",
        ),
    }
    for part, tags in names.items():
        assert [runs[part][tag] for tag in tags] == [[3, 6]] * len(tags)
    scalars = event_files.read_scalars(directory / "train" / "adv")
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    assert {step: tags["loss"] for step, tags in scalars.items()} == pytest.approx(
        {line["step"]: line["adv_loss"] for line in lines}
    )
    # Of the settings, which have the name of the run itself, and of the evaluations.
    assert set(runs["."]) >= {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    evaluations = {"evaluation", "evaluation/clean_branch"}
    assert set(runs) - evaluations == {".", *names}


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_same_bits(run, tmp_path):
    directory, _ = run
    # As if killed at the end of the second epoch, with its scalars but without its checkpoint.
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    for name in ("flags.txt", "checkpoints/epoch-0001.keras"):
        (again / name).write_bytes((directory / name).read_bytes())
    for path in directory.rglob("events.out.tfevents.*"):
        (again / path.relative_to(directory)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, again / path.relative_to(directory))
    process = program("train", *TINY, f"--run_dir={again}", "--resume", workers=2)
    assert "continued after epoch 1" in process.stdout
    np.testing.assert_equal(variables(again / "model.keras"), variables(directory / "model.keras"))
    assert shown(again) == shown(directory)


def started(directory, *flags, until):
    """Launches the real script on two workers; returns the process when it has printed a text."""
    if not (pathlib.Path(sys.executable).parent / "horovodrun").exists():
        pytest.skip("needs Horovod")
    process = subprocess.Popen(
        ["./run_horovod.sh", "-np", "2", *TINY, f"--run_dir={directory}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TFADV_RESTART_SECONDS": "0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if until in line:
            return process
    raise AssertionError(f"it ended with {process.wait()} before it printed {until!r}")


def log(directory):
    """Returns the lines of the log, without measured times."""
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [
        {name: v for name, v in line.items() if name not in ("seconds", "communication_share")}
        for line in lines
    ]


def assert_as_if_never_stopped(directory, expected):
    for name in ("model", "checkpoints/epoch-0001", "checkpoints/epoch-0002", "checkpoints/best"):
        np.testing.assert_equal(
            variables(directory / f"{name}.keras"), variables(expected / f"{name}.keras")
        )
    assert shown(directory) == shown(expected)
    assert log(directory) == log(expected)


def assert_sigterm_stops_after_a_checkpoint(directory):
    with started(directory, until="epoch    time") as process:
        # Compiling the first update takes seconds, so the signal comes before its end.
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait(120) == 75, said
    [checkpoint] = (directory / "checkpoints").iterdir()
    assert f"\nstopped by SIGTERM, to be resumed from {checkpoint}\n" in said
    assert "Traceback" not in said and "[1]" not in said
    assert not (directory / "model.keras").exists()


def test_sigterm_stops_all_workers_after_a_checkpoint(tmp_path):
    assert_sigterm_stops_after_a_checkpoint(tmp_path / "run")


@pytest.mark.slow
def test_a_run_resumed_after_sigterm_ends_as_if_never_stopped(run, tmp_path):
    directory, _ = run
    again = tmp_path / "again"
    assert_sigterm_stops_after_a_checkpoint(again)
    process = program("train", *TINY, f"--run_dir={again}", "--resume", workers=2)
    assert f"run:         {again}, continued after " in process.stdout
    assert_as_if_never_stopped(again, directory)


@pytest.mark.slow
def test_one_workers_sigterm_is_enough_and_the_launcher_starts_again(run, tmp_path):
    directory, _ = run
    again = tmp_path / "again"
    with started(again, "--restarts=1", until="epoch    time") as process:
        mine = f"--run_dir={again}".encode()
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                rank = b"HOROVOD_RANK=1" in (entry / "environ").read_bytes().split(b"\0")
                if rank and mine in command and b"tfadv.train" in command:
                    os.kill(int(entry.name), signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait(240) == 0, said
    assert "ended with status 75; restart 1 of 1, from epoch-000" in said
    assert "continued after " in said
    assert_as_if_never_stopped(again, directory)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(tmp_path):
    with started(tmp_path / "run", until="epoch    time") as process:
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(120) == 75
    process = program("train", *TINY, f"--run_dir={tmp_path / 'run'}", "--resume")
    assert "workers:     1, and 2 before: updates take the same images, in other" in process.stdout
    assert [(line["epoch"], line["step"]) for line in log(tmp_path / "run")] == [(1, 3), (2, 6)]


@pytest.mark.slow
def test_evaluate_counts_the_same_on_one_worker_and_on_two(run, tmp_path):
    directory, _ = run
    counts, doubts = [], []
    for workers in (1, 2):
        output = tmp_path / f"{workers}.json"
        process = program(
            "evaluate",
            f"--run_dir={directory}",
            "--num_steps=2,5",
            "--domain=both",
            "--limit=21",
            f"--output={output}",
            workers=workers,
        )
        assert "adv branch" in process.stdout and "PGD-5" in process.stdout
        document = json.loads(output.read_text())
        doubts.append(document["doubts"])
        assert process.stdout.count("warning: ") == len(document["doubts"])
        assert process.stdout.count("sanity checks: no doubts") == (not document["doubts"])
        results = document["results"]
        counts.append([(r["domain"], r["num_steps"], r["correct"], r["total"]) for r in results])
    assert counts[0] == counts[1] and doubts[0] == doubts[1]
    assert [row[:2] for row in counts[0]] == [
        (domain, steps) for domain in ("adv", "clean") for steps in (0, 2, 5)
    ]
    assert {row[3] for row in counts[0]} == {21}
    # TensorBoard has them once, at the model's step, although they were measured twice.
    tags = "accuracy/clean accuracy/pgd2 accuracy/pgd5 "
    tags += "attack_success/pgd2 attack_success/pgd5"
    for part in ("evaluation", "evaluation/clean_branch"):
        assert shown(directory)[part] == {tag: [6] for tag in tags.split()}


def test_data_that_do_not_fit_the_model_are_refused(run):
    directory, _ = run
    flags = [f"--model={directory / 'model.keras'}", "--dataset=synthetic", "--image_size=32"]
    process = program("evaluate", *flags, check=False)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("tfadv.evaluate: data must have images of shape (8, 8, 1)")


@pytest.mark.slow
def test_an_unreadable_image_is_one_line_and_status_2(tmp_path):
    folder = tmp_path / "images"
    for split in ("train", "val"):
        for label in range(2):
            (folder / split / f"class{label}").mkdir(parents=True)
            for i in range(4):
                picture = miniature_imagenet.jpeg(label, seed=i)
                (folder / split / f"class{label}" / f"{i}.jpg").write_bytes(picture)
    broken = folder / "train" / "class1" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    flags = "--image_size=32 --epochs=1 --depth=8 --blocks=1,1 --width=4 --num_steps=1 "
    flags += "--batch_size=4 --images_per_worker=2 --eval_num_steps= --strong_eval_num_steps="
    where = [f"--data_dir={folder}", f"--run_dir={tmp_path / 'run'}"]
    flags = ["--dataset=image_folder", *where, *flags.split()]
    process = program("train", *flags, workers=2, check=False)
    assert process.returncode == 2
    ours = [line for line in process.stderr.splitlines() if "unreadable image file" in line]
    assert ours and all(str(broken) in line for line in ours)
    assert "Traceback" not in process.stderr


def test_imagenet_whole(tmp_path):
    """Archives -> tensorflow-datasets -> one step at 224 pixels -> evaluation."""
    miniature_imagenet.prepare(
        tmp_path / "data", num_train_per_class=2, num_classes=2, num_validation=4
    )
    run_dir = tmp_path / "run"
    flags = "--norm=mbn --depth=8 --blocks=1,1 --width=8 --epochs=1 --steps_per_epoch=1 "
    flags += "--batch_size=2 --images_per_worker=2 --num_steps=1 --eval_num_steps= "
    flags += "--strong_eval_num_steps="
    program("train", f"--data_dir={tmp_path / 'data'}", f"--run_dir={run_dir}", *flags.split())
    flags = ["--num_steps=1", "--images_per_worker=2", "--sanity_checks=false"]
    program("evaluate", f"--run_dir={run_dir}", *flags)
    results = json.loads((run_dir / "evaluation.json").read_text())
    assert results["image_shape"] == [224, 224, 3]
    assert [result["total"] for result in results["results"]] == [4, 4]
    assert "doubts" not in results  # there were no checks


@pytest.mark.slow
def test_fine_tuning_trains_the_normalization_alone(run, tmp_path):
    """Section 4.4, from another run, with the optimizer and decay of Appendix A."""
    directory, _ = run
    flags = [f"--init_from={os.path.relpath(directory, ROOT)}", f"--run_dir={tmp_path}"]
    flags += "--trainable=norm --epochs=1 --optimizer=rmsprop --decay=exponential".split()
    # The steps are large, because rounding would lose small ones: gamma is near 1.
    flags += "--learning_rate=3 --rmsprop_epsilon=1e-6 --weight_decay=0.01".split()
    flags += ["--eval_num_steps=", "--strong_eval_num_steps="]
    process = program("train", *TINY, *flags)
    assert f"; trains the normalization of {directory}\n" in process.stdout
    assert "optimizer:   rmsprop, " in process.stdout
    assert f"--init_from={directory}" in (tmp_path / "flags.txt").read_text().splitlines()
    before, after = variables(directory / "model.keras"), variables(tmp_path / "model.keras")
    assert set(before) == set(after)
    for path, value in after.items():
        same = np.array_equal(value, before[path])
        assert same == path.endswith(("/kernel", "/bias")), path
