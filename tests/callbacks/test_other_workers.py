import tfadv
from tests.training import cases
from tfadv import callbacks, distributed


def test_other_workers_than_rank_0_neither_write_nor_print(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    x, y = cases.images(4)
    attack = tfadv.attacks.PGD(epsilon=8, num_steps=1)
    model = cases.compiled(cases.normalized("bn"), metrics=["accuracy"])
    writers = [
        callbacks.AdversarialImages(tmp_path / "images", (x, y), attack, value_range=(0, 1)),
        callbacks.BatchNormStatistics(tmp_path / "statistics"),
        callbacks.TrainingScalars(tmp_path / "scalars", update_freq=1),
        callbacks.HyperParameters(tmp_path / "settings", {"norm": "bn"}),
        callbacks.RunLog(tmp_path / "log.jsonl"),
        callbacks.EpochTable(["loss"]),
        callbacks.Checkpoint(tmp_path / "checkpoints", "accuracy"),
    ]
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=writers)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
