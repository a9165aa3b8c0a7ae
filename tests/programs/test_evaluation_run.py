"""Where the results of `tfadv.evaluate` go."""

import json

from tfadv.programs import command_lines
from tfadv.programs import evaluate as evaluate_program
from tfadv.programs import train as train_program
from tfadv.training import checkpoints


def test_results_of_before_keep_a_name(tmp_path, capsys):
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", f"--run_dir={tmp_path}"]
    run = train_program.prepare(*command_lines.train(flags))
    run.directory.close()
    run.model.optimizer.build(run.model.trainable_variables)
    checkpoints.save(run.model, run.directory.model)
    output, previous = tmp_path / "evaluation.json", tmp_path / "evaluation.previous.json"

    def evaluate(steps):
        flags = [f"--run_dir={tmp_path}", f"--num_steps={steps}", "--limit=4"]
        evaluate_program.prepare(*command_lines.evaluate([*flags, "--sanity_checks=false"])).run()
        found = json.loads(output.read_text())["results"]
        assert [result["num_steps"] for result in found] == [0, steps]

    evaluate(1)
    first = output.read_bytes()
    assert not previous.exists() and "previous" not in capsys.readouterr().out
    evaluate(2)
    assert previous.read_bytes() == first
    assert f"the results before these are now {previous}" in capsys.readouterr().out
