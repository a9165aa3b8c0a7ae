"""What Figures 5 and 6 share: means above variances, on the same sampled channels."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

_GREY = "#5F5F5F"


def sample_channels(number, channels, seed):
    """Which of a layer's channels are shown: up to `channels`, at random, in ascending order."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return np.sort(rng.choice(number, size=min(channels, number), replace=False))


def shown(sample, number):
    """How many of a layer's channels a figure shows, in words."""
    some = len(sample) < number
    return f"{len(sample)} of {number} channels, at random" if some else f"All {number} channels"


def open_panels(sample, title):
    """A figure of two panels whose horizontal axis has the numbers of the sampled channels."""
    figure = Figure(figsize=(9, 6), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    size = min(13, 13 * 80 / len(title))  # 80 letters fill the width
    figure.suptitle(title, x=0.01, ha="left", fontsize=size, fontweight="bold")
    _label_channels(axes[1], sample)
    return figure, axes


def finish_panel(ax, name, values):
    """Gives a panel its vertical axis: logarithmic where positive values span a factor of 30."""
    everything = np.concatenate(values)
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        ax.set_yscale("log")
    ax.set_ylabel(name)
    ax.grid(axis="y", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def head_panel(ax, text, entries):
    """Puts a line of text over the upper panel, and under it a legend of so many entries."""
    ax.set_title(text, loc="left", fontsize=9.5, color=_GREY, pad=24)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.985),
        ncols=entries,
        frameon=False,
        fontsize=10,
        borderaxespad=0,
        handletextpad=0.3,
    )


def corner_text(ax, text):
    """Puts a few words over the right end of a panel."""
    place = dict(ha="right", va="bottom", transform=ax.transAxes)
    ax.text(0.995, 1.02, text, fontsize=9.5, color=_GREY, **place)


def _label_channels(ax, sample):
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
