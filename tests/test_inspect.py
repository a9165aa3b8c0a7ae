"""`tfadv.inspect` on a run, read back: pictures, tables, TensorBoard."""

import csv

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfadv
from tests.config.test_flags import QUICK
from tfadv import config
from tfadv.config import flag_table, inspection_run


def make_run(directory, norm):
    """The directory of a run as training leaves it, its network with random statistics."""
    settings, run = config.train([QUICK, f"--norm={norm}", "--width=4", f"--run_dir={directory}"])
    run.open(flag_table.TRAIN, settings)
    run.close()
    model = tfadv.models.SmallResNet(8, norm=norm, image_size=8, channels=1, width=4, seed=1)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(generator.uniform(0.5, 2, variable.shape))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.optimizer.iterations.assign(46)
    model.save(run.model)
    return model


def inspect(*flags):
    inspection_run.prepare(*config.inspect(list(flags))).run()


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_mixture(tmp_path, capsys):
    model = make_run(tmp_path / "run", "mbn")
    inspect(f"--run_dir={tmp_path / 'run'}", "--layer=res3_block0_norm1", "--channels=3")
    output = tmp_path / "run" / "inspection"
    for name in ("figure5.png", "figure6.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    found = rows(output / "statistics.csv")
    layer = model.get_layer("res3_block0_norm1").adv
    mine = [r for r in found if (r["layer"], r["domain"]) == ("res3_block0_norm1", "adv")]
    assert [int(row["channel"]) for row in mine] == list(range(8))
    np.testing.assert_allclose([float(r["moving_mean"]) for r in mine], layer.moving_mean)
    np.testing.assert_allclose([float(r["beta"]) for r in mine], layer.beta)
    assert len(found) == 2 * sum(m.adv.beta.shape[0] for m in tfadv.models.mixtures(model))
    batches = rows(output / "batch_statistics.csv")
    assert len(batches) == 2 * len(found) and {r["mini_batch"] for r in batches} == {"1", "2"}
    distances = [float(row["distance"]) for row in rows(output / "distances.csv")]
    assert len(distances) == 9 and distances == sorted(distances, reverse=True)

    logs = tmp_path / "run" / "tensorboard" / "inspection"
    tags = {}
    for part in ("", "batch_norm", "batch_norm/adv"):
        events = EventAccumulator(str(logs / part))
        events.Reload()
        tags[part] = set(events.Tags()["tensors"])
        if not part:
            assert {e.step for e in events.Tensors("figure6")} == {46}
    assert {"figure5", "figure6", "batch_mean_1/res3_block0_norm1/adv"} <= tags[""]
    assert {"figure5", "mean_domain_distance"} <= tags["batch_norm"]
    assert "moving_variance/res3_block0_norm1" in tags["batch_norm/adv"]
    printed = capsys.readouterr().out
    assert "distance between the domains" in printed and str(output / "figure6.png") in printed


def test_plain_batch_normalization_has_figure_6_alone(tmp_path, capsys):
    make_run(tmp_path / "run", "bn")
    inspect(f"--run_dir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"figure6.png", "statistics.csv", "batch_statistics.csv"}
    assert "no Figure 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of run_dir and model must be given"),
        (["--run_dir=none"], "run_dir must hold a run of tfadv.train; received none"),
        (["--model=m.keras"], "output must be given with model; received none"),
        (["--model=m.keras", "--output=o"], "model must be a .keras file; received m.keras"),
        (["--run_dir=gn"], "model must have batch normalization; .* has none"),
        (["--run_dir=mbn", "--layer=conv0"], "layer must be a mixture of model .* 'conv0'"),
        (["--run_dir=mbn", "--channels=0"], "channels must be at least 1; received 0"),
        (["--run_dir=mbn", "--checkpoint=3"], "checkpoint must be last, best or an epoch"),
    ],
)
def test_mistakes(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if flags and flags[0] in ("--run_dir=gn", "--run_dir=mbn"):
        make_run(tmp_path / flags[0].split("=")[1], flags[0].split("=")[1])
    with pytest.raises(ValueError, match=message):
        inspect(*flags)
    assert not list(tmp_path.glob("*/inspection"))
