import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

import tfadv
from tfadv import inspection
from tfadv.callbacks import BatchNormStatistics

IMAGES = np.random.default_rng(0).uniform(0, 255, (24, 8, 8, 1)).astype("float32")
LABELS = np.arange(24) % 10
# One histogram, one value for each of these, for a layer or a branch.
ARRAYS = ("moving_mean", "moving_variance", "gamma", "beta")


LAYERS = [f"norm{number}" for number in range(4)]


def make(norm="mbn", channels=6):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(tfadv.layers.InputContract()(inputs))
    for number, name in enumerate(LAYERS):
        x = keras.layers.Dense(channels, kernel_initializer=_initializer(number))(x)
        x = keras.layers.ReLU()(tfadv.layers.normalization(norm, channels, name=name)(x))
    return compiled(keras.Model(inputs, keras.layers.Dense(10, kernel_initializer="zeros")(x)))


def _initializer(seed):
    return keras.initializers.GlorotUniform(seed=seed)


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    return model


def fit(model, *callbacks, epochs=1):
    """Three updates an epoch."""
    return model.fit(
        IMAGES, LABELS, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )


def write(model, callback):
    """Calls the callback as `fit` does, without updates."""
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0)
    callback.on_train_end()


def adversarial():
    """Returns the callback that trains both branches."""
    return tfadv.callbacks.AdversarialTraining(tfadv.attacks.PGD(epsilon=8, num_steps=1))


class Snapshots(keras.callbacks.Callback):
    """Keeps the statistics at the end of each epoch, by the number of updates."""

    def __init__(self):
        super().__init__()
        self.records = {}

    def on_epoch_end(self, epoch, logs=None):
        self.records[(epoch + 1) * 3] = inspection.statistics(self.model)


class Events:
    """The contents of a directory's event files."""

    def __init__(self, directory):
        self.accumulator = EventAccumulator(str(directory), {"tensors": 0})
        self.accumulator.Reload()
        self.plugins = {
            tag: self.accumulator.SummaryMetadata(tag).plugin_data.plugin_name
            for tag in self.accumulator.Tags()["tensors"]
        }

    def tags(self, plugin):
        return {tag for tag, name in self.plugins.items() if name == plugin}

    def values(self, tag):
        """Step -> array."""
        events = self.accumulator.Tensors(tag)
        values = {event.step: tf.make_ndarray(event.tensor_proto) for event in events}
        assert len(values) == len(events)  # no step twice
        return values


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model with mixtures that was trained for two epochs; its event files are only read."""
    log_dir = tmp_path_factory.mktemp("run")
    snapshots = Snapshots()
    model = make()
    fit(model, adversarial(), BatchNormStatistics(log_dir), snapshots, epochs=2)
    return log_dir / "train", snapshots.records, model


def by_domain(records, domain):
    return {record.path: record for record in records if record.domain == domain}


@pytest.mark.parametrize("domain", ["adv", "clean"])
def test_histograms_and_scalars_of_each_branch(run, domain):
    directory, snapshots, _ = run
    events = Events(directory / domain)
    paths = set(by_domain(snapshots[3], domain))
    assert paths == set(LAYERS)
    assert events.tags("histograms") == {f"{name}/{path}" for name in ARRAYS for path in paths}
    assert events.tags("scalars") == {
        f"mean_moving_{name}/{path}" for name in ("mean", "variance") for path in paths
    }
    for path in paths:
        for name in ARRAYS:
            histograms = events.values(f"{name}/{path}")
            assert set(histograms) == {3, 6}  # updates
            for step, histogram in histograms.items():
                values = getattr(by_domain(snapshots[step], domain)[path], name)
                left, right, counts = histogram.T
                assert counts.sum() == len(values)
                assert left[0] == pytest.approx(values.min())
                assert right[-1] == pytest.approx(values.max())
                if values.min() < values.max():
                    expected, _ = np.histogram(values.astype(float), len(counts))
                    np.testing.assert_array_equal(counts, expected)
        for name in ("moving_mean", "moving_variance"):
            for step, value in events.values(f"mean_{name}/{path}").items():
                record = by_domain(snapshots[step], domain)[path]
                assert value == pytest.approx(np.mean(getattr(record, name)), rel=1e-5)


def test_distances_between_the_domains(run):
    directory, snapshots, _ = run
    events = Events(directory)
    paths = set(by_domain(snapshots[3], "adv"))
    assert events.tags("scalars") == {
        "mean_domain_distance",
        *(f"domain_distance/{path}" for path in paths),
    }
    assert events.tags("histograms") == set()
    assert set(events.values("mean_domain_distance")) == {3, 6}
    for step, records in snapshots.items():
        adv, clean = by_domain(records, "adv"), by_domain(records, "clean")
        distances = {path: inspection.distance(adv[path], clean[path]) for path in paths}
        assert min(distances.values()) > 0
        for path in paths:
            value = events.values(f"domain_distance/{path}")[step]
            assert value == pytest.approx(distances[path], rel=1e-5)
        mean = events.values("mean_domain_distance")[step]
        assert mean == pytest.approx(np.mean(list(distances.values())), rel=1e-5)


def test_figure_5_is_an_image(run):
    directory, _, model = run
    events = Events(directory)
    assert events.tags("images") == {"statistics/difference_of_branches"}
    images = events.values("statistics/difference_of_branches")
    assert set(images) == {3, 6}
    width, height, png = images[6]
    image = tf.io.decode_png(png, channels=3).numpy()
    assert image.shape == (int(height), int(width), 3)
    assert 400 <= image.shape[0] <= 1000 and 800 <= image.shape[1] <= 1600
    # The last image is of the model as it is now.
    expected = tf.io.decode_png(inspection.figure_to_png(inspection.figure5(model)), channels=3)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("norm", ["bn", "keras"])
def test_plain_batch_normalization_has_histograms_and_scalars_alone(tmp_path, norm):
    model = make("bn")
    if norm == "keras":
        model = compiled(tfadv.models.extract(model, "adv"))
    write(model, BatchNormStatistics(tmp_path))
    assert [path.name for path in (tmp_path / "train").iterdir() if path.is_dir()] == []
    events = Events(tmp_path / "train")
    assert len(events.tags("histograms")) == 4 * 4 and len(events.tags("scalars")) == 2 * 4
    assert events.tags("images") == set()
    assert events.values("mean_moving_mean/norm0") == {0: 0}
    assert events.values("mean_moving_variance/norm0") == {0: 1}


def test_number_of_layers_is_bounded_and_spread_over_the_depth(tmp_path):
    model = keras.Sequential([keras.Input((4,))])
    for number in range(30):
        model.add(tfadv.layers.MixtureBatchNormalization(name=f"mix{number}"))
    write(compiled(model), BatchNormStatistics(tmp_path, max_layers=7))
    events = Events(tmp_path / "train" / "adv")
    numbers = sorted(
        int(tag.removeprefix("moving_mean/mix"))
        for tag in events.tags("histograms")
        if tag.startswith("moving_mean/")
    )
    assert len(numbers) == 7 and numbers[0] == 0 and numbers[-1] == 29
    assert set(np.diff(numbers)) <= {4, 5}
    top = Events(tmp_path / "train")
    assert len(top.tags("scalars")) == 7 + 1


def test_training_is_not_disturbed(run):
    _, _, model = run
    alone = make()
    fit(alone, adversarial(), epochs=2)
    for one, other in zip(alone.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_epochs_and_the_end(tmp_path):
    fit(make("bn"), BatchNormStatistics(tmp_path, every=2), epochs=5)
    values = Events(tmp_path / "train").values("moving_mean/norm0")
    assert list(values) == [6, 12, 15]


def test_a_resumed_training_has_each_step_once(tmp_path):
    model = make()
    for first, *steps in ((0, 3, 6, 9), (3, 6)):  # killed after 9, with a checkpoint of 3
        callback = BatchNormStatistics(tmp_path)
        callback.set_model(model)
        model.optimizer.iterations.assign(first)
        callback.on_train_begin()
        for step in steps:
            model.optimizer.iterations.assign(step)
            callback.on_epoch_end(0)
    for part, tag in (
        ("", "statistics/difference_of_branches"),
        ("", "mean_domain_distance"),
        ("adv", "gamma/norm0"),
    ):
        assert list(Events(tmp_path / "train" / part).values(tag)) == [3, 6]


def test_a_finished_training_resumed_has_its_last_step_once(tmp_path):
    """The first one was killed between its last checkpoint and its end, or after its end."""
    model = make()
    write(model, BatchNormStatistics(tmp_path))
    for every in (1, 2, 2):
        callback = BatchNormStatistics(tmp_path, every=every)
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_train_end()
        for part, tag in (("", "statistics/difference_of_branches"), ("adv", "gamma/norm0")):
            assert list(Events(tmp_path / "train" / part).values(tag)) == [0]


def test_an_exception_leaves_nothing_broken(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:
                raise KeyboardInterrupt

    model, callback = make("bn"), BatchNormStatistics(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, Stop(), epochs=3)
    # What was written is there, and the same callback goes on in the next fit.
    assert list(Events(tmp_path / "train").values("moving_mean/norm0")) == [3]
    fit(model, callback, epochs=2)
    values = Events(tmp_path / "train").values("moving_mean/norm0")
    assert sorted(values) == [3, 7, 10]


def test_statistics_that_are_no_longer_finite(tmp_path):
    model = make()
    model.get_layer("norm0").adv.moving_variance.assign([np.nan, np.inf, 1.0, 2.0, 2.0, 3.0])
    write(model, BatchNormStatistics(tmp_path))
    events = Events(tmp_path / "train" / "adv")
    (histogram,) = events.values("moving_variance/norm0").values()
    assert histogram[:, 2].sum() == 4
    assert np.isnan(events.values("mean_moving_variance/norm0")[0])


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="every must be an integer of at least 1; received 0"):
        BatchNormStatistics(tmp_path, every=0)
    with pytest.raises(ValueError, match="max_layers must be an integer of at least 1"):
        BatchNormStatistics(tmp_path, max_layers=1.5)
    with pytest.raises(ValueError, match="needs a model with batch normalization"):
        fit(make("gn"), BatchNormStatistics(tmp_path))
    with pytest.raises(ValueError, match="layer must be a mixture .*received 'nowhere'"):
        fit(make(), BatchNormStatistics(tmp_path, layer="nowhere"))
    assert list(tmp_path.iterdir()) == []
