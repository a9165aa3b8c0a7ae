import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

import tfadv
from tfadv import inspection


def drawn(axes):
    """The values of the marks of each domain."""
    names = {"adversarial images": "adv", "clean images": "clean"}
    return {
        names[line.get_label()]: np.asarray(line.get_ydata())
        for line in axes.get_lines()
        if line.get_label() in names
    }


def channels_of(figure):
    """The numbers of the channels that Figure 5 or 6 shows."""
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


def test_the_seed_chooses_the_channels(wide):
    first, again, other = (channels_of(inspection.figure5(wide, seed=s)) for s in (0, 0, 1))
    assert first == again != other


def test_a_layer_with_fewer_channels_shows_all(resnet):
    figure = inspection.figure5(resnet, layer="norm0")
    assert channels_of(figure) == [0, 1, 2, 3]
    assert "All 4 channels" in figure.axes[0].get_title(loc="left")


def test_default_layer(resnet, wide):
    assert ": res3_block" in inspection.figure5(resnet).get_suptitle()
    assert ": mix2 of wide" in inspection.figure5(wide).get_suptitle()


def test_png_is_an_image_of_sensible_size(resnet):
    png = inspection.figure_to_png(inspection.figure5(resnet))
    assert png == inspection.figure_to_png(inspection.figure5(resnet))
    assert png.startswith(b"\x89PNG")
    image = tf.io.decode_png(png, channels=3).numpy()
    height, width, _ = image.shape
    assert 400 <= height <= 1000 and 800 <= width <= 1600 and len(png) < 200_000
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)} <= pixels  # the colours of both domains


def set_statistics(layer, mean, variance, factor):
    for branch, by in ((layer.adv, factor), (layer.clean, 1)):
        branch.moving_mean.assign(mean * by)
        branch.moving_variance.assign(variance * by)


def test_where_domains_agree_both_are_seen_and_the_distance_is_not_rounded_to_0(wide):
    layer = wide.get_layer("mix2")
    mean, variance = np.linspace(-1, 1, 40), np.linspace(0.5, 2, 40)
    colors = {(0xD5, 0x5E, 0x00): "adv", (0x00, 0x72, 0xB2): "clean"}
    counts = []
    for factor in (1.5, 1):
        set_statistics(layer, mean, variance, factor)
        png = inspection.figure_to_png(inspection.figure5(wide, "mix2"))
        pixels = tf.io.decode_png(png, channels=3).numpy()[200:].reshape(-1, 3)  # no legend
        counts.append({d: np.sum((pixels == color).all(1)) for color, d in colors.items()})
    apart, together = counts
    for domain in ("adv", "clean"):
        assert together[domain] > 0.8 * apart[domain] > 300
    # By hand: variances that differ by 1% lie sqrt(1 - sqrt(2 * 1.01 / 2.0201))) apart.
    set_statistics(layer, 0 * mean, 1 + 0 * mean, 1.01)
    layer.adv.epsilon = layer.clean.epsilon = 0
    [adv, clean] = [r for r in inspection.statistics(wide) if r.path == "mix2"]
    assert inspection.distance(adv, clean) == pytest.approx(0.002488, rel=1e-3)
    title = inspection.figure5(wide, "mix2").axes[0].get_title(loc="left")
    assert "over all channels: 0.0025 (Hellinger: 0 is equal" in title
    set_statistics(layer, mean, variance, 1)
    assert ": 0.0 (Hell" in inspection.figure5(wide, "mix2").axes[0].get_title(loc="left")


def test_wide_ticks_push_nothing_out_of_the_figure(wide):
    set_statistics(wide.get_layer("mix2"), np.linspace(-2e-4, 2e-4, 40), np.ones(40), 1)
    figure = inspection.figure5(wide, "mix2")
    inspection.figure_to_png(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    ticks = [label for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert max(len(label.get_text()) for label in ticks) >= 7
    title = next(text for text in figure.axes[0].get_children() if "Hell" in str(text))
    for text in (title, figure.axes[0].yaxis.label, figure.axes[1].yaxis.label):
        box = text.get_window_extent(renderer)
        assert box.x0 > 0 and box.x1 < figure.bbox.width
    assert title.get_window_extent(renderer).x0 < 13  # and so does not move with the ticks


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e-20])
def test_broken_statistics_are_drawn_without_warnings(wide, value):
    layer = wide.get_layer("mix2")
    layer.adv.moving_variance.assign(np.full(40, value))
    layer.clean.moving_mean.assign(np.full(40, value))
    assert inspection.figure_to_png(inspection.figure5(wide, channels=40)).startswith(b"\x89PNG")


def test_a_wide_range_of_variances_has_a_logarithmic_axis(wide):
    assert inspection.figure5(wide, "mix0").axes[1].get_yscale() == "linear"
    wide.get_layer("mix0").adv.moving_variance.assign(np.geomspace(0.01, 100, 40))
    figure = inspection.figure5(wide, "mix0", channels=40)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]


def test_wrong_arguments_of_figure_5(wide):
    with pytest.raises(ValueError, match="layer must be a mixture .*mix0.*received 'plain'"):
        inspection.figure5(wide, layer="plain")
    with pytest.raises(ValueError, match="channels must be an integer of at least 1; received 0"):
        inspection.figure5(wide, channels=0)
    plain = tfadv.models.SmallResNet(8, norm="bn", image_size=8, width=2)
    with pytest.raises(ValueError, match="must have a mixture"):
        inspection.figure5(plain)


@pytest.fixture
def statistics_of_layers(fill_model):
    """Running statistics of a mixture of four channels, and those of two mini-batches."""
    model = fill_model(
        keras.Sequential([keras.Input([3, 2, 4]), tfadv.layers.normalization("mbn", 4)])
    )
    x = np.random.default_rng(1).normal(size=(6, 3, 2, 4))
    batches = [inspection.batch_statistics(model, images, 4) for images in (x, 2 * x)]
    return inspection.statistics(model), [[adv, clean] for adv, clean in batches]


def test_figure_6_shows_running_and_batch_statistics(statistics_of_layers):
    [running, _], batches = statistics_of_layers
    batches = [adv for adv, _ in batches]
    figure = inspection.figure6(running, batches, channels=3, seed=5, model_name="net")
    channels = channels_of(figure)
    assert len(set(channels)) == 3
    for axes, name in zip(figure.axes, ("mean", "variance"), strict=True):
        [levels] = axes.collections
        ends = np.array([segment[0] for segment in levels.get_segments()])
        np.testing.assert_array_equal(ends[:, 1], getattr(running, f"moving_{name}")[channels])
        for line, batch in zip(axes.get_lines(), batches, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), getattr(batch, name)[channels])
    assert f"{running.path}, adv branch of net" in figure.get_suptitle()

    means, variances = inspection.relative_difference(running, batches)
    deviation = np.sqrt(running.moving_variance + running.epsilon)
    expected = [np.abs(b.mean - running.moving_mean) / deviation for b in batches]
    assert means == pytest.approx(np.mean(expected))
    expected = [np.abs(b.variance - running.moving_variance) / deviation**2 for b in batches]
    assert variances == pytest.approx(np.mean(expected), rel=1e-4)
    assert figure.axes[0].get_title(loc="left") == (
        f"3 of 4 channels, at random. Over all channels, batch means are {means:.3f} standard "
        f"deviations off, variances {100 * variances:.1f}%"
    )


def test_wrong_arguments_of_figure_6(statistics_of_layers):
    [adv, _], batches = statistics_of_layers
    with pytest.raises(ValueError, match="batches must be of '.*', adv; received '.*', clean"):
        inspection.figure6(adv, [clean for _, clean in batches])
    with pytest.raises(ValueError, match="batches must be one to 4; received 0"):
        inspection.figure6(adv, [])


def rows(figure):
    """The axes of a figure of pairs."""
    count = len(figure.axes) // 3
    return [figure.axes[i * count : (i + 1) * count] for i in range(3)]


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_and_their_magnified_differences(channels):
    generator = np.random.default_rng(0)
    clean = generator.uniform(20, 230, (3, 8, 8, channels))
    change = generator.uniform(-16, 16, clean.shape)
    captions = [(f"label {i}", f"predicted {i}") for i in range(3)]
    figure = inspection.pairs_figure(clean, clean + change, 16, captions)
    shown = np.array([[ax.get_images()[0].get_array() for ax in row] for row in rows(figure)])
    expected = np.stack([clean / 255, (clean + change) / 255, 0.5 + change / 32])
    np.testing.assert_allclose(shown, expected.squeeze(), atol=1e-12)
    assert [ax.get_xlabel() for ax in rows(figure)[0]] == ["label 0", "label 1", "label 2"]
    assert rows(figure)[1][2].get_xlabel() == "predicted 2"


def test_pairs_in_any_range_and_without_epsilon():
    clean = np.zeros((1, 8, 8, 1))
    figure = inspection.pairs_figure(clean, clean, 0, [("a", "b")], value_range=(-1, 1))
    assert [float(row[0].get_images()[0].get_array()[0, 0]) for row in rows(figure)] == [0.5] * 3


def test_long_captions_do_not_overlap():
    images = np.zeros((4, 224, 224, 3))
    name = "label " + "soft-coated wheaten terrier " * 3
    figure = inspection.pairs_figure(images, images, 16, [(f"{name}\n{name}", name)] * 4)
    assert inspection.figure_to_png(figure).startswith(b"\x89PNG")
    renderer = FigureCanvasAgg(figure).get_renderer()
    for row in rows(figure):
        boxes = [ax.xaxis.label.get_window_extent(renderer) for ax in row]
        for left, right in zip(boxes, boxes[1:], strict=False):
            assert left.x1 < right.x0
    assert rows(figure)[0][0].get_xlabel().count("\n") == 1
