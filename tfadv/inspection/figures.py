"""Figures 5 and 6 of the paper, and pairs of clean and adversarial images.

They are `matplotlib.figure.Figure`s, which need no display and touch no global state.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfadv import arguments
from tfadv.inspection.distances import distance
from tfadv.inspection.layer_statistics import (
    BatchStatistics,
    LayerStatistics,
    layer_records,
    normalizations,
)
from tfadv.layers import MixtureBatchNormalization

if TYPE_CHECKING:
    # Functions import it when they draw, since the library works without it.
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; the marks tell them apart in
# grey too. The marks of mini-batches leave out the two colours that mean a domain.
# Clean images have an open mark around that of adversarial images, so that both are seen where
# they agree.
_DOMAINS = {
    "adv": dict(color="#D55E00", marker="o", markersize=6, markeredgewidth=0),
    "clean": dict(
        color="#0072B2", marker="s", markersize=10, markeredgewidth=1.8, fillstyle="none"
    ),
}
_NAMES = {"adv": "adversarial images", "clean": "clean images"}
_BATCHES = [("#009E73", "s"), ("#CC79A7", "o"), ("#E69F00", "^"), ("#56B4E9", "D")]
_RUNNING = "#3A3A3A"
_GREY = "#5F5F5F"


def figure5(
    model: keras.Model, layer: str | None = None, channels: int = 20, seed: int = 0
) -> "Figure":
    """Draws the statistics of both branches of one mixture: the paper's Figure 5.

    It shows the moving mean and the moving variance on randomly sampled channels. The axis of a
    statistic that spans more than a factor of 30 is logarithmic.

    Args:
        model: A Keras model with a mixture.
        layer: String, the path of a mixture (as in `LayerStatistics`). None takes the middle one
            of the stage `res3`, as the paper does, or, without such a stage, of the network.
        channels: Integer, how many channels; a layer with fewer shows all.
        seed: Integer, which channels.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the model has no mixture, or none of that path.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=32)
    tfadv.inspection.figure5(model).savefig("figure5.png")
    ```
    """
    path = mixture_path(model, layer)
    # Only this layer is read, because reading all layers of ResNet-638 takes longer than drawing.
    adv, clean = layer_records(path, normalizations(model)[path])
    number = len(adv.moving_mean)
    sample = _sample_channels(number, channels, seed)
    figure, panels = _open_panels(
        sample, f"Two sets of statistics in one layer: {path} of {model.name}"
    )
    for ax, name in zip(panels, ("mean", "variance"), strict=True):
        values = {
            domain: getattr(record, f"moving_{name}")[sample]
            for domain, record in (("adv", adv), ("clean", clean))
        }
        _draw_domains(ax, values)
        _finish_panel(ax, f"running {name}", list(values.values()))
    _write_head(
        panels[0],
        f"{_count_text(sample, number)}. Distance between the domains"
        f"{' over all channels' if len(sample) < number else ''}: "
        f"{distance(adv, clean):#.2g} (Hellinger: 0 is equal, 1 is disjoint)",
        len(_DOMAINS),
    )
    return figure


def figure6(
    running: LayerStatistics,
    batches: Sequence[BatchStatistics],
    channels: int = 20,
    seed: int = 0,
    model_name: str = "",
) -> "Figure":
    """Draws batch statistics beside running statistics of one layer: the paper's Figure 6.

    It shows mean and variance on randomly sampled channels, running statistics as lines and those
    of each mini-batch as marks. In the paper the means agree and the variances do not (Section
    4.3).

    Args:
        running: `LayerStatistics` of a layer, or of one branch of a mixture.
        batches: List of one to four `BatchStatistics` of the same layer and branch.
        channels: Integer, how many channels; a layer with fewer shows all.
        seed: Integer, which channels; those of `figure5` for the same seed.
        model_name: String, for the title.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no mini-batches or more than four, or if they are of another layer.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8, norm="bn", image_size=64)
    running = tfadv.inspection.statistics(model)
    batch = tfadv.inspection.batch_statistics(model, images)
    tfadv.inspection.figure6(running[0], [batch[0]]).savefig("figure6.png")
    ```
    """
    if not 1 <= len(batches) <= len(_BATCHES):
        raise ValueError(f"batches must be one to {len(_BATCHES)}; received {len(batches)}")
    for batch in batches:
        if (batch.path, batch.domain) != (running.path, running.domain):
            raise ValueError(
                f"batches must be of {running.path!r}, {running.domain}; "
                f"received {batch.path!r}, {batch.domain}"
            )
    number = len(running.moving_mean)
    sample = _sample_channels(number, channels, seed)
    branch = f", {running.domain} branch" if running.domain else ""
    owner = f" of {model_name}" if model_name else ""
    figure, panels = _open_panels(
        sample, f"Batch against running statistics: {running.path}{branch}{owner}"
    )
    for ax, name in zip(panels, ("mean", "variance"), strict=True):
        levels = getattr(running, f"moving_{name}")[sample]
        marks = [getattr(batch, name)[sample] for batch in batches]
        _draw_batches(ax, levels, marks)
        _finish_panel(ax, name, [levels, *marks])
    _write_head(
        panels[0],
        f"{_count_text(sample, number)}. Over all channels, batch "
        f"{difference_text(*relative_difference(running, batches))}",
        len(batches) + 1,
    )
    return figure


def pairs_figure(
    clean: np.ndarray,
    adversarial: np.ndarray,
    epsilon: float,
    captions: Sequence[tuple[str, str]],
    value_range: tuple[float, float] = (0, 255),
) -> "Figure":
    """Draws clean images, their adversarial counterparts, and the perturbations between them.

    Perturbations are magnified: grey is 0, black and white are -epsilon and epsilon, for each
    channel.

    Args:
        clean, adversarial: Arrays `[images, height, width, channels]`, of 1 or 3 channels.
        epsilon: Largest change, in pixels of 255.
        captions: List of pairs of strings, below each clean and each adversarial image; their
            lines are shortened to 36 characters.
        value_range: `(low, high)` of the images.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    ```python
    adversarial = attack(model, images, labels, value_range=(0, 255), seed=(0, 0)).numpy()
    captions = [(f"label {label}", "attacked") for label in labels]
    figure = tfadv.inspection.pairs_figure(images, adversarial, attack.epsilon, captions)
    figure.savefig("pairs.png")
    ```
    """
    from matplotlib.figure import Figure

    low, high = value_range
    radius = epsilon * (high - low) / 255
    rows = {
        "clean": (clean - low) / (high - low),
        "adversarial": (adversarial - low) / (high - low),
        "perturbation": 0.5 + (adversarial - clean) / (2 * radius or 1),
    }
    size = (2.6 * len(clean) + 0.5, 8)
    figure = Figure(figsize=size, dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), len(clean), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name, fontsize=10)
        for ax, image in zip(row, images, strict=True):
            # Without interpolation, which would hide the changes of single pixels.
            options = {"interpolation": "nearest", "vmin": 0, "vmax": 1}
            ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", **options)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
    for column, pair in enumerate(captions):
        for row, caption in zip(axes, pair, strict=False):
            lines = [textwrap.shorten(line, 36, placeholder="...") for line in caption.split("\n")]
            row[column].set_xlabel("\n".join(lines), fontsize=9)
    axes[-1][0].set_xlabel(f"grey is 0, the ends are ±{epsilon:g} of 255", fontsize=9)
    return figure


def figure_to_png(figure: "Figure") -> bytes:
    """Renders a figure as the bytes of a PNG file; equal figures give equal bytes.

    Args:
        figure: A `matplotlib.figure.Figure`.

    Returns:
        Bytes.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    return buffer.getvalue()


def relative_difference(
    running: LayerStatistics, batches: Sequence[BatchStatistics]
) -> tuple[float, float]:
    """Measures how far batch statistics are from running ones, over all channels of one layer.

    Args:
        running: `LayerStatistics`.
        batches: List of `BatchStatistics`.

    Returns:
        Two floats, means over the channels and mini-batches of `|m_b - m| / s` and of
        `|s_b^2 - s^2| / s^2`, where `m` is the running mean, `s^2` the running variance plus the
        layer's epsilon, and `m_b` and `s_b^2` the batch's.
    """
    variance = np.asarray(running.moving_variance, np.float64) + running.epsilon
    means = [np.abs(b.mean - running.moving_mean) / np.sqrt(variance) for b in batches]
    variances = [np.abs(b.variance - running.moving_variance) / variance for b in batches]
    return float(np.mean(means)), float(np.mean(variances))


def difference_text(means: float, variances: float) -> str:
    """Returns the numbers of `relative_difference` in words."""
    return f"means are {means:.3f} standard deviations off, variances {100 * variances:.1f}%"


def mixture_path(model: keras.Model, layer: str | None = None) -> str:
    """Returns the path of the mixture that `figure5` draws, or raises its `ValueError`."""
    mixtures = [
        path
        for path, normalization in normalizations(model).items()
        if isinstance(normalization, MixtureBatchNormalization)
    ]
    if not mixtures:
        raise ValueError(
            f"model must have a mixture batch normalization; {model.name!r} has none "
            '(norm="mbn", or tfadv.models.convert(model, "mbn"), makes them)'
        )
    return layer_path(mixtures, layer, f"a mixture of model {model.name!r}")


def layer_path(
    paths: list[str],
    layer: str | None = None,
    kind: str = "a batch normalization of the model",
) -> str:
    """Returns `layer`, or by default the middle one of the stage `res3` or of the network.

    Args:
        paths: List of strings, in network order.
        layer: One of them, or None.
        kind: What the paths are, for the message.

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


def _draw_domains(ax, values):
    positions = np.arange(len(values["adv"]))
    # The line between the two marks of a channel is the gap between the domains.
    ax.vlines(positions, values["clean"], values["adv"], color="#C4C4C4", linewidth=4, zorder=1)
    for domain, style in _DOMAINS.items():
        ax.plot(positions, values[domain], color=style["color"], alpha=0.45, linewidth=1, zorder=1)
        ax.plot(positions, values[domain], linestyle="none", label=_NAMES[domain], **style)
    larger = int(np.sum(values["adv"] > values["clean"]))
    ax.text(
        0.995,
        1.02,
        f"adversarial larger in {larger} of {len(positions)}",
        fontsize=9.5,
        color=_GREY,
        ha="right",
        va="bottom",
        transform=ax.transAxes,
    )


def _draw_batches(ax, running, batches):
    places = np.arange(len(running))
    ax.hlines(running, places - 0.4, places + 0.4, color=_RUNNING, linewidth=2.5, label="running")
    for number, (values, (color, marker)) in enumerate(zip(batches, _BATCHES, strict=False), 1):
        ax.plot(
            places + 0.24 * (number - (len(batches) + 1) / 2),  # side by side
            values,
            linestyle="none",
            color=color,
            marker=marker,
            markersize=7,
            markeredgecolor="white",
            label=f"mini-batch {number}",
        )


def _sample_channels(number, channels, seed):
    """The numbers of up to `channels` of a layer's channels, at random, in ascending order."""
    arguments.integer("channels", channels, 1)
    rng = np.random.Generator(np.random.Philox(key=arguments.integer("seed", seed, 0)))
    return np.sort(rng.choice(number, size=min(channels, number), replace=False))


def _count_text(sample, number):
    some = len(sample) < number
    return f"{len(sample)} of {number} channels, at random" if some else f"All {number} channels"


def _open_panels(sample, title):
    """A figure with a panel for means above one for variances, on the same channels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, MaxNLocator

    figure = Figure(figsize=(9, 6), dpi=120, facecolor="white", layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    size = min(13, 13 * 80 / len(title))  # 80 letters fill the width
    figure.suptitle(title, x=0.01, ha="left", fontsize=size, fontweight="bold")
    figure.align_ylabels(panels)
    axis = panels[1].xaxis
    axis.set_label_text("channel")
    panels[1].set_xlim(-0.6, len(sample) - 0.4)
    if len(sample) > 40:
        axis.set_major_locator(MaxNLocator(integer=True))
        axis.set_major_formatter(lambda x, _: str(sample[int(x)]) if 0 <= x < len(sample) else "")
    else:
        axis.set_major_locator(FixedLocator(range(len(sample))))
        panels[1].set_xticklabels(map(str, sample))
    return figure, panels


def _finish_panel(ax, name, values):
    """Sets the vertical axis, logarithmic if positive values span a factor of 30."""
    everything = np.concatenate(values)
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        ax.set_yscale("log")
    ax.set_ylabel(name)
    ax.grid(axis="y", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _write_head(ax, text, entries):
    """Writes a line of text above a panel, and below it a legend with this number of entries."""
    title = ax.set_title(text, loc="left", fontsize=9.5, color=_GREY, pad=24)
    # From the left of the figure, because from that of the axes wide tick labels would push its end
    # out of the figure.
    from matplotlib.transforms import blended_transform_factory

    across = blended_transform_factory(ax.figure.transFigure, ax.transAxes)
    title.set(x=0.01, transform=across + ax.titleOffsetTrans)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.985),
        ncols=entries,
        frameon=False,
        fontsize=10,
        borderaxespad=0,
        handletextpad=0.3,
    )
