"""What a run begins with: fresh weights, those of another network, or its own checkpoint."""

import numpy as np
import pytest

from tfadv import config
from tfadv.config import training_run
from tfadv.training import checkpoints

FLAGS = ["--flagfile=flags/quickstart.flags", "--width=4", "--depth=8", "--norm=bn"]


def variables(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def prepare(path, *flags):
    run = training_run.prepare(*config.train([*FLAGS, f"--run_dir={path}", *flags]))
    run.run.close()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose every variable is another than at the start, and its file."""
    path = tmp_path_factory.mktemp("finished")
    run = prepare(path)
    for variable in run.model.variables:
        variable.assign(np.random.default_rng(1).uniform(1, 2, variable.shape))
    checkpoints.save(run.model, run.run.model)
    return path, variables(run.model)


def test_begins_with_the_network_of_a_run_and_a_fresh_optimizer(finished, tmp_path):
    path, expected = finished
    run = prepare(tmp_path / "run", f"--init_from={path}", "--seed=5", "--weight_decay=0.01")
    np.testing.assert_equal(variables(run.model), expected)
    assert (run.first_epoch, int(run.model.optimizer.iterations)) == (0, 0)
    assert f"; trains {path}" in run._description(1)


def test_a_checkpoint_of_its_own_wins(finished, tmp_path):
    path, first = finished
    flags = [f"--init_from={path / 'model.keras'}", "--trainable=norm"]
    run = prepare(tmp_path, *flags)
    np.testing.assert_equal(variables(run.model), first)
    norm = run.model.get_layer("norm0")
    norm.gamma.assign(norm.gamma + 1)
    run.model.optimizer.build(run.model.trainable_variables)
    checkpoints.save(run.model, run.run.checkpoints / "epoch-0002.keras")
    again = prepare(tmp_path, *flags, "--resume")
    assert again.first_epoch == 2
    np.testing.assert_equal(variables(again.model), variables(run.model))
    names = {variable.name for variable in again.model.trainable_variables}
    assert names == {"gamma", "beta"}
    assert " parameters that train" in again._description(1)


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
