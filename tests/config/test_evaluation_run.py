"""Where the results of `tfadv.evaluate` go."""

import json

import pytest

from tfadv import config
from tfadv.config import building, evaluation_run, flag_table, parsing, training_run
from tfadv.training import checkpoints


def test_results_of_before_keep_a_name(tmp_path, capsys):
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", f"--run_dir={tmp_path}"]
    run = training_run.prepare(*config.train(flags))
    run.run.close()
    run.model.optimizer.build(run.model.trainable_variables)
    checkpoints.save(run.model, run.run.model)
    output, previous = tmp_path / "evaluation.json", tmp_path / "evaluation.previous.json"

    def evaluate(steps):
        flags = [f"--run_dir={tmp_path}", f"--num_steps={steps}", "--limit=4"]
        evaluation_run.prepare(*config.evaluate([*flags, "--sanity_checks=false"])).run()
        found = json.loads(output.read_text())["results"]
        assert [result["num_steps"] for result in found] == [0, steps]

    evaluate(1)
    first = output.read_bytes()
    assert not previous.exists() and "previous" not in capsys.readouterr().out
    evaluate(2)
    assert previous.read_bytes() == first
    assert f"the results before these are now {previous}" in capsys.readouterr().out


@pytest.mark.parametrize("table", [flag_table.TRAIN, flag_table.EVALUATE, flag_table.MINI_BATCHES])
def test_the_flag_clips_the_starts_of_every_attack(table):
    usual, clipped = (parsing.parse("x", "", table, flags) for flags in ([], ["--clip_start"]))
    assert not usual.clip_start and clipped.clip_start
    if table is not flag_table.MINI_BATCHES:
        clipped.epsilon = 16.0
        assert building.attack(clipped, 3).clip_start and building.attack(clipped, 3).num_steps == 3
