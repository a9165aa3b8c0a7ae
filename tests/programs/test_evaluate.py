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
        clipped.epsilon, clipped.attack_norm = 16.0, "linf"
        assert building.attack(clipped, 3).clip_start and building.attack(clipped, 3).num_steps == 3


def _run_in_l2(directory, *given):
    flagfile = ["--flagfile=flags/quickstart.flags", "--width=4", f"--run_dir={directory}"]
    given = [*flagfile, "--attack_norm=l2", *given]
    return train_program.prepare(*train_program.parse(given))


def test_training_in_l2_takes_its_own_lengths(tmp_path):
    with pytest.raises(ValueError, match="^epsilon must be given with attack_norm=l2, .* rece.*16"):
        _run_in_l2(tmp_path / "a", "--epsilon=16")
    with pytest.raises(ValueError, match="^step_size must be at most twice epsilon with .*ived 2"):
        _run_in_l2(tmp_path / "a", "--epsilon=0.5", "--step_size=2")
    run = _run_in_l2(tmp_path / "run", "--epsilon=0.5", "--step_size=0.1")
    run.directory.close()
    assert (run.attack.norm, run.attack.epsilon, run.attack.effective_step_size) == ("l2", 0.5, 0.1)
    assert "epsilon 0.5, step size 0.1 (L2, images 0 to 1)" in run._description(1)
    named = flags.parse(TRAIN, ["--attack_norm=l2"])
    assert train_program._default_directory(named).endswith("-pgd30-l2")

    # Its evaluation is in L2 too, unless it says otherwise.
    checkpoints.save(run.model, run.directory.model)

    def settings(*given):
        return evaluate_program.parse([f"--run_dir={tmp_path / 'run'}", *given])[0]

    assert (settings().attack_norm, settings().epsilon) == ("l2", 0.5)
    assert building.attack(settings(), 3).norm == "l2"
    other = settings("--attack_norm=linf", "--epsilon=8")
    assert (other.attack_norm, other.epsilon) == ("linf", 8)
    with pytest.raises(
        ValueError, match="^epsilon must be given with attack_norm=linf; received no"
    ):
        settings("--attack_norm=linf")


def test_earlier_evaluations_of_the_same_model_and_images_are_read(tmp_path):
    import numpy as np

    from tfadv import evaluation

    same = {"model_sha256": "a", "dataset": "digits", "image_shape": [8, 8, 1]}
    results = [evaluation.Result(domain=None, num_steps=0, correct=2, total=3)]
    right = np.array([[True, False, True]])

    def write(name, correct_images=right, **details):
        evaluation.write_json(tmp_path / name, results, correct_images, **{**same, **details})

    write("evaluation.json")  # the new one
    write("pgd.json")
    write("evaluation.previous.json")
    write("another.json", model_sha256="b")
    write("other_images.json", image_names="c")
    write("without_images.json", None)
    (tmp_path / "else.json").write_text("{}")
    settings = flags.parse(EVALUATE, [f"--output={tmp_path / 'evaluation.json'}"])
    run = evaluate_program.EvaluationRun(settings, None, None, None)
    run._data = same
    earlier = run._earlier()
    assert [each for each, _ in earlier] == [results] * 2
    for _, correct_images in earlier:
        np.testing.assert_array_equal(correct_images, right)
