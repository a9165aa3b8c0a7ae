import dataclasses

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tfadv import distributed, evaluation
from tfadv.event_files import read_scalars

CLEAN = evaluation.Result(domain="adv", num_steps=0, correct=9, total=12)
PGD = dataclasses.replace(CLEAN, num_steps=20, correct=6, hits=3)
SHOWN = {"robust_accuracy/clean": 0.75, "robust_accuracy/pgd20": 0.5, "attack_success/pgd20": 0.25}


def test_results_become_scalars_by_branch(tmp_path):
    other = dataclasses.replace(PGD, domain="clean", correct=3)
    evaluation.write_scalars(tmp_path, [CLEAN, PGD, other], step=40)
    assert read_scalars(tmp_path) == {40: SHOWN}
    assert read_scalars(tmp_path / "clean") == {
        40: {"robust_accuracy/pgd20": 0.25, "attack_success/pgd20": 0.25}
    }


def test_evaluations_in_any_order_stand_side_by_side(tmp_path):
    evaluation.write_scalars(tmp_path, [CLEAN, PGD], step=40)
    earlier = [dataclasses.replace(CLEAN, correct=3)]
    for _ in range(2):
        evaluation.write_scalars(tmp_path, earlier, step=10)
    evaluation.write_scalars(tmp_path, [dataclasses.replace(PGD, correct=12)], step=40)
    assert read_scalars(tmp_path) == {
        10: {"robust_accuracy/clean": 0.25},
        40: SHOWN | {"robust_accuracy/pgd20": 1.0},
    }
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Tensors("robust_accuracy/clean")] == [10, 40]


def test_other_workers_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    evaluation.write_scalars(tmp_path, [CLEAN], step=1)
    assert list(tmp_path.iterdir()) == []
