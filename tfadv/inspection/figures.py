import io
import re

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from tfadv.attacks import arguments
from tfadv.inspection import distances, layer_statistics
from tfadv.layers import MixtureBatchNormalization

# Okabe and Ito's vermilion and blue, apart in brightness too, and two shapes: readable for the
# colour-blind and in grey.
_STYLES = {
    "adv": dict(color="#D55E00", marker="o", markersize=8),
    "clean": dict(color="#0072B2", marker="s", markersize=6.5),
}
_NAMES = {"adv": "adversarial images", "clean": "clean images"}
_GREY = "#5F5F5F"


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
    sample = sample_channels(len(adv.moving_mean), channels, seed)
    figure = Figure(figsize=(9, 6), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, name in zip(axes, ("moving_mean", "moving_variance"), strict=True):
        values = {
            domain: getattr(record, name)[sample]
            for domain, record in (("adv", adv), ("clean", clean))
        }
        _draw(ax, name, values)
    label_channels(axes[1], sample)
    title = f"Two sets of statistics in one layer: {path} of {model.name}"
    size = min(13, 13 * 80 / len(title))  # 80 letters fill the width
    figure.suptitle(title, x=0.01, ha="left", fontsize=size, fontweight="bold")
    number = len(adv.moving_mean)
    some = len(sample) < number
    shown = f"{len(sample)} of {number} channels, at random" if some else f"All {number} channels"
    axes[0].set_title(
        f"{shown}. Distance between the domains{' over all channels' if some else ''}: "
        f"{distances.distance(adv, clean):.2f} (Hellinger: 0 is equal, 1 is disjoint)",
        loc="left",
        fontsize=9.5,
        color=_GREY,
        pad=24,
    )
    axes[0].legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.985),
        ncols=2,
        frameon=False,
        fontsize=10,
        borderaxespad=0,
        handletextpad=0.2,
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


def sample_channels(number, channels, seed):
    """Which of a layer's channels are shown: up to `channels`, at random, in ascending order."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return np.sort(rng.choice(number, size=min(channels, number), replace=False))


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
    everything = np.concatenate(list(values.values()))
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        ax.set_yscale("log")
    larger = int(np.sum(values["adv"] > values["clean"]))
    ax.text(
        0.995,
        1.02,
        f"adversarial larger in {larger} of {len(positions)}",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize=9.5,
        color=_GREY,
    )
    ax.set_ylabel({"moving_mean": "running mean", "moving_variance": "running variance"}[name])
    ax.grid(axis="y", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def label_channels(ax, sample):
    """Marks the horizontal axis of a figure with the numbers of the sampled channels."""
    ax.set_xlabel("channel")
    ax.set_xlim(-0.6, len(sample) - 0.4)
    if len(sample) > 40:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter(
            lambda x, _: str(sample[int(x)]) if 0 <= x < len(sample) else ""
        )
    else:
        ax.xaxis.set_major_locator(FixedLocator(range(len(sample))))
        ax.set_xticklabels(map(str, sample))
