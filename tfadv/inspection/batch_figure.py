import numpy as np

from tfadv import arguments
from tfadv.inspection import panels

_RUNNING = "#3A3A3A"
# Okabe and Ito's, in shapes that differ too; without the two that mean a domain in Figure 5.
_BATCHES = [("#009E73", "s"), ("#CC79A7", "o"), ("#E69F00", "^"), ("#56B4E9", "D")]


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
    arguments.integer("channels", channels, 1)
    arguments.integer("seed", seed, 0)
    number = len(running.moving_mean)
    sample = panels.sample_channels(number, channels, seed)
    branch = f", {running.domain} branch" if running.domain else ""
    owner = f" of {model_name}" if model_name else ""
    figure, axes = panels.open_panels(
        sample, f"Batch against running statistics: {running.path}{branch}{owner}"
    )
    for ax, name in zip(axes, ("mean", "variance"), strict=True):
        values = [getattr(batch, name)[sample] for batch in batches]
        _draw(ax, name, getattr(running, f"moving_{name}")[sample], values)
    panels.head_panel(
        axes[0],
        f"{panels.shown(sample, number)}. Over all channels, batch "
        f"{difference_text(*relative_difference(running, batches))}",
        len(batches) + 1,
    )
    return figure


def relative_difference(running, batches):
    """How far batch statistics are from running ones, over all channels of one layer.

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


def difference_text(means, variances):
    """The numbers of `relative_difference` in words."""
    return f"means are {means:.3f} standard deviations off, variances {100 * variances:.1f}%"


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
    panels.finish_panel(ax, name, [running, *batches])
