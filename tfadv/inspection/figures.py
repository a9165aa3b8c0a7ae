import io
import re

import numpy as np

from tfadv import arguments
from tfadv.inspection import distances, layer_statistics, panels
from tfadv.layers import MixtureBatchNormalization

# Okabe and Ito's vermilion and blue, apart in brightness too, and two shapes: readable for the
# colour-blind and in grey.
_STYLES = {
    "adv": dict(color="#D55E00", marker="o", markersize=8),
    "clean": dict(color="#0072B2", marker="s", markersize=6.5),
}
_NAMES = {"adv": "adversarial images", "clean": "clean images"}


def figure5(model, layer=None, channels=20, seed=0):
    """Draws the two sets of statistics of one mixture: the paper's Figure 5.

    Moving mean and moving variance of the adv and the clean branch, on randomly sampled channels
    of one layer. Where a statistic spans more than a factor of 30 its axis is logarithmic.

    Args:
        model: A Keras model with a mixture.
        layer: String, the path of a mixture (as in `LayerStatistics`). None takes the middle one
            of the stage `res3`, as the paper does, or where there is no such stage, the middle one
            of the network.
        channels: Integer, how many channels; a layer with fewer shows all.
        seed: Integer, which channels.

    Returns:
        A `matplotlib.figure.Figure` that needs no display and touches no global state.

    Raises:
        ValueError: If the model has no mixture, or none of that path.
    """
    path = mixture_path(model, layer)
    arguments.integer("channels", channels, 1)
    arguments.integer("seed", seed, 0)
    # Of this layer alone: reading all of ResNet-638 takes longer than drawing.
    adv, clean = layer_statistics.layer_records(path, layer_statistics.normalizations(model)[path])
    number = len(adv.moving_mean)
    sample = panels.sample_channels(number, channels, seed)
    figure, axes = panels.open_panels(
        sample, f"Two sets of statistics in one layer: {path} of {model.name}"
    )
    for ax, name in zip(axes, ("mean", "variance"), strict=True):
        values = {
            domain: getattr(record, f"moving_{name}")[sample]
            for domain, record in (("adv", adv), ("clean", clean))
        }
        _draw(ax, name, values)
    panels.head_panel(
        axes[0],
        f"{panels.shown(sample, number)}. Distance between the domains"
        f"{' over all channels' if len(sample) < number else ''}: "
        f"{distances.distance(adv, clean):.2f} (Hellinger: 0 is equal, 1 is disjoint)",
        len(_STYLES),
    )
    return figure


def figure_to_png(figure):
    """Renders a figure.

    Args:
        figure: A `matplotlib.figure.Figure`.

    Returns:
        The bytes of a PNG file; equal figures give equal bytes.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    return buffer.getvalue()


def mixture_path(model, layer=None):
    """The path of the mixture that `figure5` draws.

    Args:
        model: A Keras model.
        layer: As of `figure5`.

    Returns:
        A string.

    Raises:
        ValueError: As of `figure5`.
    """
    paths = [
        path
        for path, found in layer_statistics.normalizations(model).items()
        if isinstance(found, MixtureBatchNormalization)
    ]
    if not paths:
        raise ValueError(
            f"model must have a mixture batch normalization; {model.name!r} has none "
            '(norm="mbn", or tfadv.models.convert(model, "mbn"), makes them)'
        )
    return layer_path(paths, layer, f"a mixture of model {model.name!r}")


def layer_path(paths, layer=None, kind="a batch normalization of the model"):
    """The path that is asked for, or the middle one of the stage `res3`, or of the network.

    Args:
        paths: List of strings, in network order.
        layer: As of `figure5`.
        kind: What the paths are, for the message.

    Returns:
        A string.

    Raises:
        ValueError: If `layer` is none of them.
    """
    if layer is None:
        stage = [path for path in paths if re.search(r"(^|/)res3_", path)] or paths
        return stage[len(stage) // 2]
    if layer not in paths:
        some = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        raise ValueError(f"layer must be {kind} ({some}); received {layer!r}")
    return layer


def _draw(ax, name, values):
    positions = np.arange(len(values["adv"]))
    # What joins the two of a channel is the gap between the domains, which is what matters.
    ax.vlines(positions, values["clean"], values["adv"], color="#C4C4C4", linewidth=4, zorder=1)
    for domain, style in _STYLES.items():
        ax.plot(positions, values[domain], color=style["color"], alpha=0.45, linewidth=1)
        ax.plot(
            positions,
            values[domain],
            linestyle="none",
            markeredgecolor="white",
            label=_NAMES[domain],
            **style,
        )
    larger = int(np.sum(values["adv"] > values["clean"]))
    panels.corner_text(ax, f"adversarial larger in {larger} of {len(positions)}")
    panels.finish_panel(ax, f"running {name}", list(values.values()))
