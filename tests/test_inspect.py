"""`tfadv.inspect` on a run: its pictures, tables and TensorBoard events, read back."""

import csv

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tests.programs.test_flags import QUICK
from tfadv import models
from tfadv.programs import building, start
from tfadv.programs import inspect as inspect_program
from tfadv.programs import train as train_program


def make_run(directory, norm):
    """Writes a run directory as training does, with random statistics; returns the network."""
    settings, run = train_program.parse(
        [QUICK, f"--norm={norm}", "--width=4", f"--run_dir={directory}"]
    )
    run.open(settings)
    run.close()
    model = models.SmallResNet(8, norm=norm, image_size=8, channels=1, width=4, seed=1)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(generator.uniform(0.5, 2, variable.shape))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.optimizer.iterations.assign(46)
    model.save(run.model)
    return model


def run_program(*flags):
    start.run("inspect", list(map(str, flags)))


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def events(directory):
    """Returns a dictionary, tag -> (step, value) of each event, of a TensorBoard run."""
    run = EventAccumulator(str(directory))
    run.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in run.Tensors(tag)]
        for tag in run.Tags()["tensors"]
    }


def test_a_mixture(tmp_path, capsys):
    run = tmp_path / "run"
    model = make_run(run, "mbn")
    flags = [f"--run_dir={run}", "--layer=res3_block0_norm1", "--channels=3", "--num_steps=2"]
    run_program(*flags)
    output = run / "inspection"
    for name in ("figure5.png", "figure6.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    statistics = rows(output / "statistics.csv")
    layer = model.get_layer("res3_block0_norm1")
    for domain in ("adv", "clean"):
        branch = getattr(layer, domain)
        mine = [r for r in statistics if (r["layer"], r["domain"]) == (layer.name, domain)]
        assert [int(row["channel"]) for row in mine] == list(range(8))
        for name in ("moving_mean", "moving_variance", "gamma", "beta"):
            values = np.float32([row[name] for row in mine])
            np.testing.assert_array_equal(values, getattr(branch, name))
    assert len(statistics) == 2 * sum(m.adv.beta.shape[0] for m in models.mixtures(model))
    distances = [float(row["distance"]) for row in rows(output / "distances.csv")]
    assert len(distances) == 9 and distances == sorted(distances, reverse=True)

    # The layer after the first convolution, in the same mini-batches.
    batches = rows(output / "batch_statistics.csv")
    assert len(batches) == 2 * len(statistics)
    settings, _, _ = inspect_program.parse(flags)
    stem = keras.Model(model.inputs, model.get_layer("norm0").input)
    drawn = inspect_program.random_mini_batches(
        settings.trained, model, building.dataset(settings.trained), 2, settings.seed
    )
    for number, (images, domain) in enumerate(drawn, 1):
        assert (len(images), domain) == (64, 32)
        for name, seen in (("adv", stem(images[:32])), ("clean", stem(images[32:]))):
            key = ("norm0", name, str(number))
            mine = [r for r in batches if (r["layer"], r["domain"], r["mini_batch"]) == key]
            seen = np.float64(seen).reshape(-1, 4)
            for moment, expected in (("mean", seen.mean(axis=0)), ("variance", seen.var(axis=0))):
                values = [float(row[moment]) for row in mine]
                np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)

    logs = output
    path = "res3_block0_norm1"
    [(step, image)] = events(logs)["statistics/batch_against_running"]
    assert step == 46 and image[2] == (output / "figure6.png").read_bytes()
    [(step, image)] = events(logs)["statistics/difference_of_branches"]
    assert step == 46 and image[2] == (output / "figure5.png").read_bytes()
    [(step, histogram)] = events(logs / "adv")[f"moving_variance/{path}"]
    assert step == 46 and histogram[:, 2].sum() == 8
    [(step, histogram)] = events(logs / "mini_batch_2" / "clean")[f"batch_mean/{path}"]
    assert step == 46 and histogram[:, 2].sum() == 8
    printed = capsys.readouterr().out
    assert "distance between the domains" in printed and str(output / "figure6.png") in printed
    assert "2 mini-batches of 32 adversarial images (PGD-2) and 32 clean ones" in printed


def test_plain_batch_normalization_has_figure_6_alone(tmp_path, capsys):
    make_run(tmp_path / "run", "bn")
    flags = [f"--run_dir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]
    run_program(*flags, "--figure6=false")
    assert not (tmp_path / "out" / "figure6.png").exists()
    run_program(*flags, "--adversarial=false")  # replaces the first inspection
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"figure6.png", "statistics.csv", "batch_statistics.csv", "tensorboard"}
    assert {row["domain"] for row in rows(tmp_path / "out" / "statistics.csv")} == {""}
    assert "no Figure 5" in capsys.readouterr().out
    logs = tmp_path / "out" / "tensorboard" / "inspection"
    for part, tag in (
        ("", "statistics/batch_against_running"),
        ("", "gamma/norm0"),
        ("mini_batch_1", "batch_variance/norm0"),
    ):
        assert [step for step, _ in events(logs / part)[tag]] == [46]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_file_needs_data_for_figure_6(tmp_path, capsys):
    bare = models.SmallResNet(8, norm="bn", image_size=8, channels=1, width=4)
    bare.save(tmp_path / "bare.keras")  # never compiled
    flags = [f"--model={tmp_path / 'bare.keras'}", f"--output={tmp_path / 'out'}"]
    run_program(*flags)
    assert "no dataset was given, and so no Figure 6" in capsys.readouterr().out
    assert not (tmp_path / "out" / "figure6.png").exists()
    run_program(*flags, "--dataset=digits", "--num_steps=1", "--clean_ratio=0.5")
    printed = capsys.readouterr().out
    assert "32 adversarial images (PGD-1) and 16 clean ones" in printed
    [(step, _)] = events(tmp_path / "out" / "tensorboard" / "inspection")[
        "statistics/batch_against_running"
    ]
    assert step == 0


# test_bad_flags.py and test_bad_files.py test the errors that all programs share.
MISTAKES = [
    (
        ["--run_dir=mbn", "--domain=clean", "--clean_ratio=0"],
        "domain=clean needs clean images; received clean_ratio=0.0",
    ),
    (
        ["--run_dir=mbn", "--adversarial=false"],
        "domain=adv needs adversarial images; received adversarial=False",
    ),
    (["--run_dir=mbn", "--dataset=synthetic", "--image_size=8"], "data must have images of shape"),
    (
        ["--run_dir=mbn", "--dataset=cifar10", "--data_dir=d"],
        "cifar10 is not prepared in d; to prepare it, run: python -m tfadv.data prepare cifar10 "
        "--data_dir=d; or leave Figure 6 out with --figure6=false",
    ),
]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks")
    make_run(path / "mbn", "mbn")
    return path


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_mistakes_are_one_line_and_status_2(flags, message, networks, monkeypatch, capsys):
    monkeypatch.chdir(networks)
    with pytest.raises(SystemExit, match="2"):
        run_program(*flags)
    written = capsys.readouterr()
    assert written.err.startswith(f"tfadv.inspect: {message}") and written.err.count("\n") == 1
    assert not written.out and not list(networks.glob("*/inspection"))


def mini_batches(tmp_path, *flags, seed=0):
    layers = [keras.Input([8, 8, 1]), keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    flags = [QUICK, "--num_steps=2", "--images_per_worker=8", "--start_from_clean=0", *flags]
    trained, _ = train_program.parse([*flags, f"--run_dir={tmp_path / 'run'}"])
    dataset = building.dataset(trained)
    batches = [
        (images.numpy(), domain)
        for images, domain in inspect_program.random_mini_batches(trained, model, dataset, 2, seed)
    ]
    known = {image.tobytes() for image in dataset._train[0].numpy().astype("float32")}
    return inspect_program.mini_batch_text(trained), batches, known


def test_mini_batches_hold_adversarial_images_beside_their_clean_ones(tmp_path):
    said, batches, known = mini_batches(tmp_path, "--clean_ratio=0.5")
    assert said == "8 adversarial images (PGD-2) and 4 clean ones"
    for images, domain in batches:
        assert (len(images), domain) == (12, 8)
        clean = images[8:]
        assert {image.tobytes() for image in clean} <= known
        # At most the quickstart's epsilon of 80 away, after a random start.
        assert 40 < np.abs(images[:4] - clean).max() <= 80.001
        assert images.min() >= 0 and images.max() <= 255
    first, second = (images for images, _ in batches)
    assert not np.array_equal(first, second)


def test_mini_batches_of_one_domain(tmp_path):
    said, batches, known = mini_batches(tmp_path, "--norm=bn", "--clean_ratio=0")
    assert said == "8 adversarial images (PGD-2)"
    assert [(len(images), domain) for images, domain in batches] == [(8, "adv")] * 2
    assert not known & {image.tobytes() for images, _ in batches for image in images}
    flags = ["--norm=bn", "--adversarial=false"]
    said, batches, known = mini_batches(tmp_path, *flags)
    assert said == "8 clean images"
    assert [(len(images), domain) for images, domain in batches] == [(8, "clean")] * 2
    assert {image.tobytes() for images, _ in batches for image in images} <= known
    again, other = (mini_batches(tmp_path, *flags, seed=seed)[1] for seed in (0, 1))
    np.testing.assert_array_equal(again[1][0], batches[1][0])
    assert not np.array_equal(other[1][0], batches[1][0])
