import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import inspection

X = np.random.default_rng(1).normal(size=(6, 3, 2, 5)).astype("float32")


def moments(x):
    return x.mean(axis=(0, 1, 2), dtype="float64"), x.var(axis=(0, 1, 2), dtype="float64")


def network(fill_model):
    """A plain batch normalization, a nested mixture behind it, and one of Keras's own."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input([3, 2, 5])
    inner = keras.Input([3, 2, 4])
    nested = keras.Model(
        inner, tfadv.layers.MixtureBatchNormalization(name="mixture")(inner), name="nested"
    )
    x = keras.layers.Dense(4, name="first")(inputs)
    x = tfadv.layers.BatchNormalization(name="plain")(x)
    x = nested(x)
    x = keras.layers.BatchNormalization(momentum=0.99, name="keras")(x)
    model = fill_model(keras.Model(inputs, x))
    # Of such a size that a difference to them would leave no digit of a batch statistic.
    for layer in (model.get_layer("plain"), model.get_layer("keras")):
        layer.moving_mean.assign([1e7, -1e7, 1e6, 0])
        layer.moving_variance.assign([1e9, 1e8, 1e7, 0])
    return model


@pytest.mark.parametrize(
    ("domain", "adversarial"), [(4, 4), ("clean", 0), ("adv", 6), (tf.constant(6), 6)]
)
def test_what_each_layer_sees_in_training(fill_model, domain, adversarial):
    model = network(fill_model)
    before = {v.path: v.numpy() for v in model.variables}
    found = {(s.path, s.domain): s for s in inspection.batch_statistics(model, X, domain)}

    def normalized(x, layer):
        mean, variance = moments(x)
        return (x - mean) / np.sqrt(variance + layer.epsilon) * layer.gamma + layer.beta

    first = model.get_layer("first")
    seen = {}
    x = X @ first.kernel.numpy() + first.bias.numpy()
    seen["plain", None] = x
    x = normalized(x, model.get_layer("plain"))
    mixture = model.get_layer("nested").get_layer("mixture")
    parts = {"adv": x[:adversarial], "clean": x[adversarial:]}
    parts = {branch: part for branch, part in parts.items() if len(part)}
    seen |= {("mixture", branch): part for branch, part in parts.items()}
    x = np.concatenate([normalized(part, getattr(mixture, b)) for b, part in parts.items()])
    seen["keras", None] = x
    assert set(found) == set(seen)
    for key, values in seen.items():
        mean, variance = moments(values)
        np.testing.assert_allclose(found[key].mean, mean, atol=2e-6)
        np.testing.assert_allclose(found[key].variance, variance, rtol=5e-6)
    assert all(np.array_equal(v, before[v.path]) for v in model.variables)


def test_layers_without_batch_statistics(fill_model):
    model = network(fill_model)
    model.get_layer("plain").trainable = False
    found = [(s.path, s.domain) for s in inspection.batch_statistics(model, X, "adv")]
    assert found == [("mixture", "adv"), ("keras", None)]
    renorm = keras.Sequential(
        [keras.Input([5]), keras.layers.BatchNormalization(renorm=True, name="r")]
    )
    with pytest.raises(ValueError, match="must not have renorm=True; its layer 'r' has"):
        inspection.batch_statistics(renorm, X[:, 0, 0])


def test_figure_6_shows_running_and_batch_statistics(fill_model):
    model = network(fill_model)
    running = next(r for r in inspection.statistics(model) if r.domain == "adv")
    batches = [
        next(s for s in inspection.batch_statistics(model, x, 4) if s.domain == "adv")
        for x in (X, 2 * X)
    ]
    figure = inspection.figure6(running, batches, channels=3, seed=5, model_name="net")
    channels = [int(label.get_text()) for label in figure.axes[1].get_xticklabels()]
    assert len(set(channels)) == 3
    for axes, name in zip(figure.axes, ("mean", "variance"), strict=True):
        [levels] = axes.collections
        ends = np.array([segment[0] for segment in levels.get_segments()])
        np.testing.assert_array_equal(ends[:, 1], getattr(running, f"moving_{name}")[channels])
        for line, batch in zip(axes.get_lines(), batches, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), getattr(batch, name)[channels])
    assert "mixture, adv branch of net" in figure.get_suptitle()
    line = figure.axes[0].get_title(loc="left")

    means, variances = inspection.relative_difference(running, batches)
    deviation = np.sqrt(running.moving_variance + running.epsilon)
    expected = [np.abs(b.mean - running.moving_mean) / deviation for b in batches]
    assert means == pytest.approx(np.mean(expected))
    expected = [np.abs(b.variance - running.moving_variance) / deviation**2 for b in batches]
    assert variances == pytest.approx(np.mean(expected), rel=1e-4)
    assert line == (
        f"3 of 4 channels, at random. Over all channels, batch means are {means:.3f} standard "
        f"deviations off, variances {100 * variances:.1f}%"
    )


def test_figure_6_refuses_another_layer(fill_model):
    model = network(fill_model)
    plain, adv, *_ = inspection.statistics(model)
    batches = [s for s in inspection.batch_statistics(model, X, 4) if s.domain == "clean"]
    with pytest.raises(ValueError, match="batches must be of 'mixture', adv; received 'mixture'"):
        inspection.figure6(adv, batches)
    with pytest.raises(ValueError, match="batches must be one to 4; received 0"):
        inspection.figure6(plain, [])
