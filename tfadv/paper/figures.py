"""The paper's Figures 1, 2, 3 and 7, with our curves drawn over the paper's."""

import dataclasses
import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from tfadv.paper.results import COLUMN
from tfadv.paper.sections import NO_ATTACK, Section
from tfadv.paper.tables import ADV, ALP, APART, BN, CLEAN, MBN, MBN_ALP, sharing

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


@dataclasses.dataclass
class Chart:
    """A figure before it is drawn.

    Args:
        name: Such as `"Figure 2"`.
        title: What it shows.
        x: Name of the horizontal axis.
        panels: Names of the vertical axes, from the top.
        points: DataFrame, a row for each point of each curve in ascending `x`: `label`, `panel`,
            `x` and the numbers of `Section.numbers`.
    """

    name: str
    title: str
    x: str
    panels: tuple[str, ...]
    points: pd.DataFrame


def charts(section: Section) -> list[Chart]:
    """The paper's figures as far as a section fills them.

    One point of ours beside the paper's curve makes a figure; elsewhere a curve needs two points.
    """
    least = 1 if section.paper else 2
    charts = []
    layouts = (_figure1, _figure2, _figure3, _figure7)
    for chart in filter(None, (layout(section) for layout in layouts)):
        count = (chart.points["n"] > 0).groupby(chart.points["label"]).transform("sum")
        chart.points = chart.points[count > 0]
        if (count >= least).any():
            charts.append(chart)
    return charts


def _chart(section, name, title, x, panels, points):
    """A figure of points `(label, panel, x, entry, column)`; one without a number is left out."""
    points = pd.DataFrame(
        [(label, panel, at, entry, *column) for label, panel, at, entry, column in points],
        columns=["label", "panel", "x", "entry", *COLUMN],
    ).astype(dict.fromkeys(["panel", "x", "entry", *COLUMN], float))
    points = points.join(section.numbers, on=["entry", *COLUMN]).dropna(subset="n")
    return Chart(name, title, x, panels, points)


def _figure1(section):
    ratios = sorted(section.entries["clean_ratio"].dropna().unique())
    # Domains that do not meet in one call are ours.
    curves = {"100% adv + r% clean": False, "100% adv + r% clean, apart": True}
    entries = {
        (label, ratio): section.find(sharing(100 * ratio, apart))
        for label, apart in curves.items()
        for ratio in ratios
    }
    column = section.strongest(entries.values())
    if column is None:
        return None
    chart = _chart(
        section,
        "Figure 1",
        "Robustness by the share of clean images in training",
        "clean images kept in a batch (%)",
        (f"accuracy against {section.columns[column]} (%)",),
        [(label, 0, 100 * ratio, entry, column) for (label, ratio), entry in entries.items()],
    )
    mixed = chart.points[chart.points["x"] > 0]
    chart.points = chart.points[chart.points["label"].isin(mixed["label"])]
    return chart


def _figure2(section):
    # Domains that do not meet in one call are ours.
    strategies = (ADV, ALP, BN, APART)
    return _by_steps(section, "Figure 2", "One normalization for both domains", strategies)


def _figure3(section):
    # Every network whose normalization does not mix the domains. LN and IN are not in the paper.
    apart = (ADV, MBN, MBN_ALP, *(f"{norm}, {BN}" for norm in ("GN", "LN", "IN")))
    return _by_steps(section, "Figure 3", "Each domain normalized by itself", apart)


def _by_steps(section, name, title, strategies):
    points = [
        (strategy, 0, column[0], section.find(strategy), column)
        for strategy in strategies
        for column in section.columns
        if column != NO_ATTACK
    ]
    label = section.results["evaluation.attack"].dropna().iloc[0] if points else ""
    chart = _chart(section, name, title, f"{label} iterations", ("accuracy (%)",), points)
    # If an attack has several step sizes, only the smallest, which the step size rule raised least.
    chart.points = chart.points.drop_duplicates(["label", "x"])
    # The network trained on adversarial images alone is only there for comparison.
    compared = chart.points["label"] != ADV
    return chart if (chart.points.loc[compared, "n"] > 0).any() else None


def _figure7(section):
    networks = section.entries.sort_values(["depth", "blocks"]).drop_duplicates("called")
    networks = dict(zip(networks["called"], networks["depth"], strict=True))
    entries = {(s, n): section.find(s, called=n) for s in (f"{ADV}*", ADV, CLEAN) for n in networks}
    robust = section.strongest(entry for (s, _), entry in entries.items() if s != CLEAN)
    points = [
        (s, int(s == CLEAN), networks[n], entry, NO_ATTACK if s == CLEAN else robust)
        for (s, n), entry in entries.items()
        if s == CLEAN or robust
    ]
    panels = (f"{section.columns.get(robust, '')} accuracy (%)", "clean accuracy (%)")
    chart = _chart(section, "Figure 7", "Deeper networks", "depth", panels, points)
    points = chart.points.drop_duplicates(["label", "x"], keep="last")
    # A single depth shows no trend.
    chart.points = points[points.groupby("label")["x"].transform("size") > 1]
    return chart


def draw(chart: Chart, subtitle: str = "") -> Figure:
    """Draws our numbers over the paper's, which are grey.

    The error bars are 95% intervals, or over several runs standard deviations. Figures 1, 2 and 3
    begin at zero, so that they can be compared; Figure 7 is about gains, and one percent has the
    same height in both panels.

    Args:
        chart: The figure of the paper.
        subtitle: One line below the title.

    Returns:
        A figure that needs no display and touches no global state.
    """
    styles = dict(zip(chart.points["label"].unique(), _STYLES, strict=False))
    panels = list(chart.points.groupby("panel"))
    height = 4.4 if len(panels) == 1 else 6.4
    figure = Figure(figsize=(8, height), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (panel, points) in zip(axes, panels, strict=True):
        for label, curve in points.groupby("label", sort=False):
            _draw(ax, curve, styles[label])
        ax.set_ylabel(chart.panels[int(panel)])
        ax.grid(axis="y", color="#E6E6E6")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    _scale(axes, chart)
    for ax, (_, points) in zip(axes, panels, strict=True):
        ours = points.dropna(subset="ours").groupby("label", sort=False)["ours"]
        # The axis of Figure 1 is reversed, so the smallest x is at the right end.
        _label(ax, ours.first() if chart.name == "Figure 1" else ours.last(), styles)
    axes[-1].set_xlabel(chart.x)
    figure.suptitle(
        f"{chart.name}. {chart.title}", x=0.01, ha="left", fontsize=13, fontweight="bold"
    )
    notes = "\n".join(filter(None, [subtitle, _legend(chart)]))
    axes[0].set_title(notes, loc="left", fontsize=9.5, color=_GREY)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """The bytes of a figure's file; equal figures give equal bytes.

    Args:
        figure: The figure.
        kind: `"png"` or `"svg"`.
    """
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    # Otherwise the names inside an SVG are random.
    with matplotlib.rc_context({"svg.hashsalt": "tfadv"}):
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=metadata)
    return buffer.getvalue()


def _legend(chart):
    text = "Bars: 95% interval of the images"
    if chart.points["spread"].notna().any():
        text += ", or standard deviation over runs"
    if chart.points["paper"].notna().any():
        text += ". Grey, dashed: the paper's"
    return text + (". Axes do not begin at zero." if chart.name == "Figure 7" else ".")


def _draw(ax, curve, style):
    papers, ours = curve.dropna(subset="paper"), curve.dropna(subset="ours")
    if len(papers):
        dashed = dict(linestyle="--", linewidth=1.2, color=_PAPER, zorder=1)
        mark = dict(marker=style["marker"], markersize=5, markerfacecolor="white")
        ax.plot(papers["x"], papers["paper"], **dashed, **mark)
    down, up = ours["ours"] - ours["low"], ours["high"] - ours["ours"]
    bars = np.stack([ours["spread"].fillna(down), ours["spread"].fillna(up)])
    line = dict(linewidth=1.8, markersize=7, markeredgecolor="white", zorder=3, **style)
    ax.errorbar(ours["x"], ours["ours"], yerr=bars, elinewidth=1, capsize=2.5, **line)


def _scale(axes, chart):
    positions = sorted(chart.points["x"].unique())
    ax = axes[-1]  # all share its horizontal axis
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


def _label(ax, ends, styles):
    """Names the lines at their right ends without overlaps."""
    low, high = ax.get_ylim()
    ends = sorted((height, label) for label, height in ends.items())
    heights = _apart([height for height, _ in ends], 0.065 * (high - low))
    for (_, label), y in zip(ends, heights, strict=True):
        at = dict(xycoords=("axes fraction", "data"), textcoords="offset points", va="center")
        ax.annotate(label, (1.0, y), xytext=(14, 0), color="#222222", fontsize=9.5, **at)
        # The mark shows which line it is, since the letters have no colour.
        mark = dict(markersize=6, markeredgecolor="white", clip_on=False, **styles[label])
        ax.plot([1.012], [y], transform=ax.get_yaxis_transform(), **mark)


def _apart(heights, gap):
    """Ascending heights, moved as little as possible to be `gap` apart (isotonic regression)."""
    steps = gap * np.arange(len(heights))
    levels = np.array(heights) - steps
    moved = [
        max(min(levels[i:k].mean() for k in range(n + 1, len(levels) + 1)) for i in range(n + 1))
        for n in range(len(levels))
    ]
    return (moved + steps).tolist()
