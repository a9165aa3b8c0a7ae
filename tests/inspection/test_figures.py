import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import inspection
from tfadv.inspection import figures, panels


def drawn(axes):
    """Domain -> the values of its marks."""
    names = {"adversarial images": "adv", "clean images": "clean"}
    return {
        names[line.get_label()]: np.asarray(line.get_ydata())
        for line in axes.get_lines()
        if line.get_label() in names
    }


def channels_of(figure):
    return [int(label.get_text()) for label in figure.axes[1].get_xticklabels()]


@pytest.fixture
def wide(fill_model):
    inputs = keras.Input((6, 6, 3))
    x = inputs
    for number in range(5):
        x = keras.layers.Conv2D(40, 1)(x)
        x = tfadv.layers.MixtureBatchNormalization(name=f"mix{number}")(x)
    x = keras.layers.BatchNormalization(name="plain")(x)
    return fill_model(keras.Model(inputs, x, name="wide"))


def test_figure_shows_the_statistics_of_the_sampled_channels(wide):
    figure = inspection.figure5(wide, layer="mix1", channels=20, seed=3)
    channels = channels_of(figure)
    assert len(set(channels)) == 20 and channels == sorted(channels) and channels[-1] < 40
    layer = wide.get_layer("mix1")
    for axes, name in zip(figure.axes, ("moving_mean", "moving_variance"), strict=True):
        for domain, values in drawn(axes).items():
            expected = getattr(getattr(layer, domain), name).numpy()[channels]
            np.testing.assert_array_equal(values, expected)
        assert set(drawn(axes)) == {"adv", "clean"}
    title = figure.get_suptitle()
    assert "mix1" in title and "wide" in title
    assert figure.axes[0].get_ylabel() == "running mean"
    assert figure.axes[1].get_ylabel() == "running variance"


def test_channels_are_keyed_by_the_seed(wide):
    first, again, other = (channels_of(inspection.figure5(wide, seed=s)) for s in (0, 0, 1))
    assert first == again != other


def test_fewer_channels_than_asked_for_are_all_shown(resnet):
    figure = inspection.figure5(resnet, layer="norm0")
    assert channels_of(figure) == [0, 1, 2, 3]
    assert "All 4 channels" in figure.axes[0].get_title(loc="left")


def test_sampled_channels_are_uniform():
    counts = np.zeros(10)
    for seed in range(1000):
        counts[panels.sample_channels(10, 3, seed)] += 1
    assert counts.sum() == 3000
    assert abs(counts - 300).max() < 75  # over five standard deviations of 14.5


def test_default_layer(resnet, wide):
    assert figures.mixture_path(resnet).startswith("res3_block")
    assert figures.mixture_path(wide) == "mix2"
    assert "res3_block" in inspection.figure5(resnet).get_suptitle()


def test_png_is_an_image_of_sensible_size(resnet):
    png = inspection.figure_to_png(inspection.figure5(resnet))
    assert png == inspection.figure_to_png(inspection.figure5(resnet))
    assert png.startswith(b"\x89PNG")
    image = tf.io.decode_png(png, channels=3).numpy()
    height, width, _ = image.shape
    assert 400 <= height <= 1000 and 800 <= width <= 1600 and len(png) < 200_000
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)} <= pixels  # both domains are there


def test_no_window_and_no_global_state(resnet):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    inspection.figure5(resnet)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e-20])
def test_odd_statistics_are_drawn_without_warnings(wide, value):
    layer = wide.get_layer("mix2")
    layer.adv.moving_variance.assign(np.full(40, value))
    layer.clean.moving_mean.assign(np.full(40, value))
    assert inspection.figure_to_png(inspection.figure5(wide, channels=40)).startswith(b"\x89PNG")


def test_a_wide_range_of_variances_has_a_logarithmic_axis(wide):
    assert inspection.figure5(wide, "mix0").axes[1].get_yscale() == "linear"
    wide.get_layer("mix0").adv.moving_variance.assign(np.geomspace(0.01, 100, 40))
    figure = inspection.figure5(wide, "mix0", channels=40)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]


def test_errors(wide):
    with pytest.raises(ValueError, match="layer must be a mixture .*mix0.*received 'plain'"):
        inspection.figure5(wide, layer="plain")
    with pytest.raises(ValueError, match="channels must be an integer of at least 1; received 0"):
        inspection.figure5(wide, channels=0)
    plain = tfadv.models.SmallResNet(8, norm="bn", image_size=8, width=2)
    with pytest.raises(ValueError, match="must have a mixture"):
        inspection.figure5(plain)
