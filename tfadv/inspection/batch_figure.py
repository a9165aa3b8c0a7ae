import numpy as np
from matplotlib.figure import Figure

from tfadv.inspection import figures

_RUNNING = "#3A3A3A"
# Okabe and Ito's blue, vermilion, green and purple, in shapes that differ too.
_BATCHES = [("#0072B2", "s"), ("#D55E00", "o"), ("#009E73", "^"), ("#CC79A7", "D")]


def figure6(running, batches, channels=20, seed=0, model_name=""):
    """Draws batch statistics against running statistics of one layer: the paper's Figure 6.

    Mean and variance on randomly sampled channels: the running ones as steps, those of each
    mini-batch as marks. The paper saw the means agree and the variances not (Section 4.3).

    Args:
        running: `LayerStatistics` of the layer, or of one branch of a mixture.
        batches: List of one to four `BatchStatistics` of the same layer and branch.
        channels: Integer, how many channels; a layer with fewer shows all.
        seed: Integer, which channels; the same as `figure5`'s for one seed.
        model_name: String, for the title.

    Returns:
        A `matplotlib.figure.Figure` that needs no display and touches no global state.

    Raises:
        ValueError: If the mini-batches are none, more than four, or those of another layer.
    """
    if not 1 <= len(batches) <= len(_BATCHES):
        raise ValueError(f"batches must be one to {len(_BATCHES)}; received {len(batches)}")
    for batch in batches:
        if (batch.path, batch.domain) != (running.path, running.domain):
            raise ValueError(
                f"batches must be of {running.path!r}, {running.domain}; "
                f"received {batch.path!r}, {batch.domain}"
            )
    sample = figures.sample_channels(len(running.moving_mean), channels, seed)
    figure = Figure(figsize=(9, 6), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, name in zip(axes, ("mean", "variance"), strict=True):
        values = [getattr(batch, name)[sample] for batch in batches]
        _draw(ax, name, getattr(running, f"moving_{name}")[sample], values)
    figures.label_channels(axes[1], sample)
    branch = f", {running.domain} branch" if running.domain else ""
    title = f"Batch against running statistics: {running.path}{branch} of {model_name}"
    figure.suptitle(
        title, x=0.01, ha="left", fontsize=min(13, 13 * 80 / len(title)), fontweight="bold"
    )
    axes[0].legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(batches) + 1,
        frameon=False,
        fontsize=10,
        borderaxespad=0,
        handletextpad=0.4,
    )
    return figure


def relative_difference(running, batches):
    """How far batch statistics are from running ones, over all channels of one layer.

    Args:
        running: `LayerStatistics`.
        batches: List of `BatchStatistics`.

    Returns:
        Two floats: the mean distance of the means in running standard deviations, and the mean
        of `|variance / running variance - 1|`.
    """
    variance = np.asarray(running.moving_variance, np.float64) + running.epsilon
    means = [np.abs(b.mean - running.moving_mean) / np.sqrt(variance) for b in batches]
    variances = [np.abs(b.variance - running.moving_variance) / variance for b in batches]
    return float(np.mean(means)), float(np.mean(variances))


def _draw(ax, name, running, batches):
    places = np.arange(len(running))
    ax.hlines(running, places - 0.4, places + 0.4, color=_RUNNING, linewidth=2.5, label="running")
    for number, (values, (color, marker)) in enumerate(zip(batches, _BATCHES, strict=False), 1):
        ax.plot(
            places + 0.24 * (number - (len(batches) + 1) / 2),  # none hides another
            values,
            linestyle="none",
            color=color,
            marker=marker,
            markersize=7,
            markeredgecolor="white",
            label=f"mini-batch {number}",
        )
    everything = np.concatenate([running, *batches])
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        ax.set_yscale("log")
    ax.set_ylabel(name)
    ax.grid(axis="y", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
