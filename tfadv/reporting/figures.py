import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

# Okabe and Ito's colours, and a shape each: readable for the colour-blind and in grey.
_STYLES = (
    dict(color="#D55E00", marker="o"),
    dict(color="#0072B2", marker="s"),
    dict(color="#009E73", marker="^"),
    dict(color="#CC79A7", marker="D"),
    dict(color="#000000", marker="v"),
    dict(color="#56B4E9", marker="P"),
)
_GREY = "#5F5F5F"
_PAPER = "#9A9A9A"


def draw(chart, subtitle=""):
    """Draws a figure of the paper from our numbers, and the paper's behind them in grey.

    A bar at a mark is the 95% interval that its number of images leaves, or over several runs their
    standard deviation. Figures 1, 2 and 3 begin at zero, so that they can be laid side by side;
    Figure 7 is about gains, and a percent is as high in one panel as in the other.

    Args:
        chart: A `tfadv.reporting.curves.Chart`.
        subtitle: One line below the title.

    Returns:
        A `matplotlib.figure.Figure` that needs no display and touches no global state.
    """
    panels = sorted({curve.panel for curve in chart.curves})
    height = 4.4 if len(panels) == 1 else 6.4
    figure = Figure(figsize=(8, height), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    styled = list(zip(chart.curves, _STYLES, strict=False))
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, [each for each in styled if each[0].panel == panel])
        ax.set_ylabel(chart.panels[panel])
    _scale(axes, chart)
    for ax, panel in zip(axes, panels, strict=True):
        _label(ax, [_end(chart, *each) for each in styled if each[0].panel == panel])
    axes[-1].set_xlabel(chart.x)
    figure.suptitle(
        f"{chart.name}. {chart.title}", x=0.01, ha="left", fontsize=13, fontweight="bold"
    )
    notes = [subtitle] if subtitle else []
    notes.append(_legend(chart))
    axes[0].set_title("\n".join(notes), loc="left", fontsize=9.5, color=_GREY)
    return figure


def render(figure, kind):
    """The bytes of a figure's file; equal figures give equal bytes.

    Args:
        figure: A `matplotlib.figure.Figure`.
        kind: `"png"` or `"svg"`.
    """
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    # Otherwise the names inside of an SVG are drawn at random.
    with matplotlib.rc_context({"svg.hashsalt": "tfadv"}):
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=metadata)
    return buffer.getvalue()


def _legend(chart):
    numbers = [number for curve in chart.curves for _, number in curve.ours]
    several = any(number.spread is not None for number in numbers)
    text = "Bars: 95% interval of the images"
    if several:
        text += ", or standard deviation over runs"
    if any(curve.papers for curve in chart.curves):
        text += ". Grey, dashed: the paper's"
    return text + (". Axes do not begin at zero." if chart.name == "Figure 7" else ".")


def _draw(ax, styled):
    for curve, style in styled:
        if curve.papers:
            ax.plot(
                *zip(*curve.papers, strict=True),
                linestyle="--",
                color=_PAPER,
                linewidth=1.2,
                marker=style["marker"],
                markersize=5,
                markerfacecolor="white",
                zorder=1,
            )
        xs, numbers = zip(*curve.ours, strict=True)
        ax.errorbar(
            xs,
            [number.ours for number in numbers],
            yerr=list(zip(*map(_bar, numbers), strict=True)),
            label=curve.label,
            linewidth=1.8,
            markersize=7,
            markeredgecolor="white",
            elinewidth=1,
            capsize=2.5,
            zorder=3,
            **style,
        )
    ax.grid(axis="y", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _end(chart, curve, style):
    """Height, name and style of a line at its right end."""
    numbers = [number for _, number in curve.ours]
    # Where the axis is reversed the smallest x is on the right.
    return numbers[0 if chart.name == "Figure 1" else -1].ours, curve.label, style


def _bar(number):
    """How far a mark's bar reaches down and up."""
    if number.spread is not None:
        return number.spread, number.spread
    low, high = number.interval
    return number.ours - low, high - number.ours


def _scale(axes, chart):
    positions = sorted({x for curve in chart.curves for x, _ in (*curve.ours, *curve.papers)})
    ax = axes[-1]  # which all share
    if chart.name in ("Figure 2", "Figure 3"):
        ax.set_xscale("log")
    if chart.name == "Figure 1":
        ax.set_xlim(103, -3)  # as the paper removes more and more of them
    ax.xaxis.set_major_locator(FixedLocator(positions))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    limits = [ax.get_ylim() for ax in axes]
    if chart.name == "Figure 7":
        span = max(high - low for low, high in limits)
        limits = [((low + high - span) / 2, (low + high + span) / 2) for low, high in limits]
    else:
        limits = [(0, high) for _, high in limits]
    for ax, (low, high) in zip(axes, limits, strict=True):
        beyond = max(0, high - 101)  # there is no accuracy above 100
        ax.set_ylim(low - (beyond if low else 0), high - beyond)


def _label(ax, ends):
    """Names the lines at their right ends, apart from each other."""
    low, high = ax.get_ylim()
    ends = sorted(ends, key=lambda end: end[:2])
    apart = _apart([height for height, *_ in ends], 0.065 * (high - low))
    for (_, label, style), y in zip(ends, apart, strict=True):
        at = dict(xycoords=("axes fraction", "data"), textcoords="offset points", va="center")
        ax.annotate(label, (1.0, y), xytext=(14, 0), color="#222222", fontsize=9.5, **at)
        # Its mark too: grey letters would not tell which line is meant.
        ax.plot(
            [1.012],
            [y],
            transform=ax.get_yaxis_transform(),
            clip_on=False,
            markersize=6,
            markeredgecolor="white",
            **style,
        )


def _apart(heights, gap):
    """Ascending heights, moved as little as keeps them `gap` apart (isotonic regression)."""
    blocks = []
    for number, height in enumerate(heights):
        blocks.append([height - number * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (other, more) = blocks[-2:]
            blocks[-2:] = [[(mean * count + other * more) / (count + more), count + more]]
    spread = [mean for mean, count in blocks for _ in range(count)]
    return [mean + number * gap for number, mean in enumerate(spread)]
