"""`tfadv.train`: its warnings, and what a run starts from."""

import subprocess
import sys

import numpy as np
import pytest

from tests.data.conftest import folder  # noqa: F401
from tests.programs.test_flags import QUICK
from tfadv.checkpoint_files import Progress
from tfadv.programs import plan as plan_program
from tfadv.programs import train as train_program
from tfadv.training import checkpoints

FLAGS = [QUICK, "--width=4", "--depth=8", "--norm=bn"]


def test_the_number_of_workers_decides_what_divides(monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "3")
    with pytest.raises(ValueError, match="times 3 workers; received 64"):
        train_program.parse([QUICK])


def test_a_batch_larger_than_the_data_set_is_warned_of(folder, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    train_program.parse([QUICK, "--batch_size=1437", "--images_per_worker=1437"])
    message = (
        "^batch_size=4096 is more than the 1437 training images of digits: every update takes each "
        "image about 2.85 times; a batch_size of at most 1437 takes it at most once$"
    )
    for parse in (train_program.parse, plan_program.parse):
        with pytest.warns(UserWarning, match=message):
            parse([QUICK, "--batch_size=4096"])
    flags = ["--dataset=image_folder", f"--data_dir={folder}", "--batch_size=32"]
    with pytest.warns(UserWarning, match="than the 12 training images of image_folder: .* 2.67"):
        train_program.parse(flags)
    # Rank 0 warns, and neither the launcher's check before it nor another worker.
    monkeypatch.setenv("HOROVOD_SIZE", "1")
    train_program.parse(flags)
    monkeypatch.setenv("HOROVOD_RANK", "1")
    train_program.parse(flags)
    monkeypatch.setenv("HOROVOD_RANK", "0")
    with pytest.warns(UserWarning, match="more than the 12 training images"):
        train_program.parse(flags)
    done = subprocess.run(
        [sys.executable, "-m", "tfadv.train", *flags, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.startswith("tfadv.train: warning: batch_size=32 is more than the 12 ")
    assert done.stderr.count("\n") == 1


def test_an_epsilon_in_the_unit_of_other_libraries_is_warned_of(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = r"^epsilon is in pixels of 255; received 0\.031 .* give epsilon=7\.905 here"
    with pytest.warns(UserWarning, match=message):
        train_program.parse([QUICK, "--run_dir=x", "--epsilon=0.031", "--check"])


def variables(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def prepare(path, *flags):
    run = train_program.prepare(*train_program.parse([*FLAGS, f"--run_dir={path}", *flags]))
    run.directory.close()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run in which every variable has changed, and the variables."""
    path = tmp_path_factory.mktemp("finished")
    run = prepare(path)
    for variable in run.model.variables:
        variable.assign(np.random.default_rng(1).uniform(1, 2, variable.shape))
    checkpoints.save(run.model, run.directory.model)
    return path, variables(run.model)


def test_begins_with_the_network_of_a_run_and_a_fresh_optimizer(finished, tmp_path):
    path, expected = finished
    run = prepare(tmp_path / "run", f"--init_from={path}", "--seed=5", "--weight_decay=0.01")
    np.testing.assert_equal(variables(run.model), expected)
    assert (run.progress.epoch, int(run.model.optimizer.iterations)) == (0, 0)
    assert f"; trains {path}" in run._description(1)


def test_a_checkpoint_of_its_own_wins(finished, tmp_path):
    path, first = finished
    flags = [f"--init_from={path / 'model.keras'}", "--trainable=norm"]
    run = prepare(tmp_path, *flags)
    np.testing.assert_equal(variables(run.model), first)
    norm = run.model.get_layer("norm0")
    norm.gamma.assign(norm.gamma + 1)
    run.model.optimizer.build(run.model.trainable_variables)
    checkpoints.save(run.model, run.directory.checkpoints / "epoch-0002.keras", Progress(2))
    again = prepare(tmp_path, *flags, "--resume")
    assert again.progress.epoch == 2
    np.testing.assert_equal(variables(again.model), variables(run.model))
    names = {variable.name for variable in again.model.trainable_variables}
    assert names == {"gamma", "beta"}
    assert " parameters that train" in again._description(1)


def test_says_what_there_is_to_resume(tmp_path):
    run = prepare(tmp_path, "--resume")
    first = run._description(1).splitlines()[0]
    assert first.endswith("from the beginning: it holds no checkpoint to resume from")
    run.model.optimizer.build(run.model.trainable_variables)
    # As a signal before the first update leaves it.
    checkpoints.save(run.model, run.directory.checkpoints / "epoch-0000.keras", Progress())
    first = prepare(tmp_path, "--resume")._description(1).splitlines()[0]
    assert first.endswith(f"{tmp_path}, resumed before the first update")
    checkpoints.save(run.model, run.directory.checkpoints / "epoch-0020.keras", Progress(20))
    first = prepare(tmp_path, "--resume")._description(1).splitlines()[0]
    assert first.endswith(", continued after epoch 20, to its end: nothing is left to train")


def test_resumes_from_the_newest_that_is_whole_and_says_what_changes(tmp_path, capsys):
    run = prepare(tmp_path)
    run.model.optimizer.build(run.model.trainable_variables)
    directory = run.directory.checkpoints
    sums = {"metrics": [], "meters": []}
    for name, progress in (
        ("epoch-0002-step-000007", Progress(2, 7, 1, sums)),
        ("epoch-0002-step-000009", Progress(2, 9, 2, sums)),
        ("epoch-0003", Progress(3, 0, 2)),
    ):
        checkpoints.save(run.model, directory / f"{name}.keras", progress)
    broken = directory / "epoch-0003.keras"
    broken.write_bytes(broken.read_bytes()[:-300])
    capsys.readouterr()
    again = prepare(tmp_path, "--resume")
    assert again.progress == Progress(2, 9, 2, sums)
    err = capsys.readouterr().err
    assert err.startswith(f"tfadv.train: passed over {broken}: ") and err.count("\n") == 1
    assert again._description(1).splitlines()[:2] == [
        f"run:         {tmp_path}, continued after epoch 2 and 9 updates",
        "workers:     1, and 2 before: updates take the same images, in other mini-batches, and "
        "the result is not bit for bit that of 2 workers",
    ]
    again.dataset.reaches_any = False  # like ImageNet
    assert "the same images (in this epoch some twice and some never), in" in again._description(1)
    (directory / "epoch-0002-step-000009.keras").unlink()
    again = prepare(tmp_path, "--resume")
    assert again.progress.step == 7 and "workers:" not in again._description(1)
    # The newest is what others take too.
    assert again.directory.checkpoint("last") == broken
    with pytest.raises(ValueError, match=r"last, best or an epoch that .* keeps \(3\)"):
        again.directory.checkpoint("2")


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--width=8"], r"conv0/kernel \(3, 3, 1, 4\) there and conv0/kernel \(3, 3, 1, 8\) here"),
        (["--norm=gn"], "norm0/moving_mean .* there and res2_block0_conv1/kernel .* here"),
        (["--norm=mbn"], "res2_block0_conv1/kernel .* there and norm0/clean/gamma .* here"),
    ],
)
def test_refuses_another_network_by_its_first_difference(finished, tmp_path, flags, difference):
    with pytest.raises(ValueError, match=f"saved in .*first difference is {difference}"):
        prepare(tmp_path / "run", f"--init_from={finished[0]}", *flags)
    assert not (tmp_path / "run").exists()  # so that the corrected command works


def test_a_directory_that_is_not_shared_is_one_line():
    seats = [("a", True, (1, 0)), ("a", True, (1, 0)), ("b", False, (0, 0)), ("c", False, (0, 4))]
    assert train_program._unshared(seats[:2], "runs/x", True) is None
    assert train_program._unshared(seats, "runs/x", True) == (
        "run_dir runs/x is not shared, since worker 2 on b and worker 3 on c cannot see it: "
        "checkpoints and logs are on a alone, where worker 0 must run again to resume"
    )


def test_a_run_does_not_begin_again_where_another_machine_has_its_checkpoint():
    seats = [("a", True, (1, 0)), ("b", False, (1, 4))]
    assert train_program._unshared(seats, "runs/x", False)
    with pytest.raises(ValueError, match="b has a newer checkpoint in its own runs/x than a,"):
        train_program._unshared(seats, "runs/x", True)
