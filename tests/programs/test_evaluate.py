"""`tfadv.evaluate`: earlier results are kept, and its flags reach the attack."""

import json

import pytest

from tfadv.programs import building, flags
from tfadv.programs import evaluate as evaluate_program
from tfadv.programs import train as train_program
from tfadv.settings import EVALUATE, INSPECT, TRAIN
from tfadv.training import checkpoints


def test_earlier_results_are_renamed(tmp_path, capsys):
    given = ["--flagfile=flags/quickstart.flags", "--width=4", f"--run_dir={tmp_path}"]
    run = train_program.prepare(*train_program.parse(given))
    run.directory.close()
    run.model.optimizer.build(run.model.trainable_variables)
    checkpoints.save(run.model, run.directory.model)
    output, previous = tmp_path / "evaluation.json", tmp_path / "evaluation.previous.json"

    def evaluate(steps):
        given = [f"--run_dir={tmp_path}", f"--num_steps={steps}", "--limit=4"]
        evaluate_program.prepare(*evaluate_program.parse([*given, "--sanity_checks=false"])).run()
        results = json.loads(output.read_text())["results"]
        assert [result["num_steps"] for result in results] == [0, steps]

    evaluate(1)
    first = output.read_bytes()
    assert not previous.exists() and "previous" not in capsys.readouterr().out
    evaluate(2)
    assert previous.read_bytes() == first
    assert f"the results before these are now {previous}" in capsys.readouterr().out


@pytest.mark.parametrize("table", [TRAIN, EVALUATE, INSPECT])
def test_the_flag_clips_the_starts_of_every_attack(table):
    usual, clipped = (flags.parse(table, given) for given in ([], ["--clip_start"]))
    assert not usual.clip_start and clipped.clip_start
    if table is not INSPECT:
        clipped.epsilon = 16.0
        assert building.attack(clipped, 3).clip_start and building.attack(clipped, 3).num_steps == 3
