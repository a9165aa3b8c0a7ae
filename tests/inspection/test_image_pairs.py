import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tfadv import inspection


@pytest.mark.parametrize("channels", [1, 3])
def test_shows_images_and_the_magnified_difference(channels):
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


def test_takes_any_range_and_no_epsilon():
    clean = np.zeros((1, 8, 8, 1))
    figure = inspection.pairs_figure(clean, clean, 0, [("a", "b")], value_range=(-1, 1))
    assert [float(row[0].get_images()[0].get_array()[0, 0]) for row in rows(figure)] == [0.5] * 3


def test_long_names_do_not_run_into_each_other():
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


def rows(figure):
    count = len(figure.axes) // 3
    return [figure.axes[i * count : (i + 1) * count] for i in range(3)]
