"""What the paper's Figures 1, 2, 3 and 7 show, as numbers."""

import dataclasses

from tfadv.reporting.runs import CLEAN
from tfadv.reporting.sections import axes
from tfadv.reporting.table import column_name, strongest

_BN = "100% adv + 100% clean"
_ADV = "100% adv + 0% clean"
_STRATEGIES = {
    "Figure 2": (_ADV, f"{_BN}, ALP", _BN),
    # Every network whose normalization does not mix the domains: `ln` and `in` are ours.
    "Figure 3": (
        *(_ADV, f"MBN_adv, {_BN}", f"MBN_adv, {_BN}, ALP"),
        *(f"{norm}, {_BN}" for norm in ("GN", "LN", "IN")),
    ),
}


@dataclasses.dataclass
class Curve:
    """One line of a figure.

    Args:
        label: Of the line.
        points: Dictionary, x -> `Number`, in ascending x.
        panel: Of the figure, from the top.
    """

    label: str
    points: dict
    panel: int = 0

    @property
    def ours(self):
        """Pairs of x and `Number` that have a number of ours."""
        return [(x, number) for x, number in self.points.items() if number]

    @property
    def papers(self):
        """Pairs of x and the paper's accuracy in percent."""
        return [(x, n.paper) for x, n in self.points.items() if n.paper is not None]


@dataclasses.dataclass
class Chart:
    """A figure before it is drawn.

    Args:
        name: Such as `"Figure 2"`.
        title: What it shows.
        x: Name of the horizontal axis.
        panels: Names of the vertical axes, from the top.
        curves: List of `Curve`.
    """

    name: str
    title: str
    x: str
    panels: tuple
    curves: list

    @property
    def slug(self):
        """For the name of a file: `"figure2"`."""
        return self.name.lower().replace(" ", "")


def charts(section):
    """The paper's figures as far as a section fills them.

    Beside the paper's curve a single point of ours makes a figure; elsewhere one curve needs two.

    Args:
        section: `Section`.

    Returns:
        A list of `Chart`.
    """
    least = 1 if section.paper else 2
    made = [_figure1(section), _figure2(section), _figure3(section), _figure7(section)]
    found = []
    for chart in filter(None, made):
        chart.curves = [curve for curve in chart.curves if curve.ours]
        if any(len(curve.ours) >= least for curve in chart.curves):
            found.append(chart)
    return found


def _figure1(section):
    base = section.base
    ratios = {e.settings["clean_ratio"] for e in section.entries if axes(e) == base} - {None}
    entries = [section.find(f"100% adv + {100 * ratio:g}% clean") for ratio in sorted(ratios)]
    entries = [entry for entry in entries if entry]
    column = strongest(section, [entry for entry in entries if entry.filled])
    if column is None:
        return None
    points = {100 * entry.settings["clean_ratio"]: entry.number(column) for entry in entries}
    name = column_name(section, column)
    return Chart(
        "Figure 1",
        "Robustness by the share of clean images in training",
        "clean images kept in a batch (%)",
        (f"accuracy against {name} (%)",),
        [Curve("100% adv + r% clean", points)],
    )


def _figure2(section):
    return _by_steps("Figure 2", "One normalization for both domains", section)


def _figure3(section):
    return _by_steps("Figure 3", "Each domain normalized by itself", section)


def _by_steps(name, title, section):
    curves = []
    for label in _STRATEGIES[name]:
        entry = section.find(label)
        points = {}
        for column, number in sorted(entry.numbers.items()) if entry else ():
            if column.num_steps:
                # Of several step sizes the smallest: the one that a rule raises least.
                points.setdefault(column.num_steps, number)
        curves.append(Curve(label, points))
    # What was trained on adversarial images alone is there for comparison.
    if not any(curve.ours for curve in curves[1:]):
        return None
    return Chart(name, title, "PGD iterations", ("accuracy (%)",), curves)


def _figure7(section):
    networks = sorted({axes(entry)[0] for entry in section.entries})
    star = {network: section.find(_ADV + "*", network=network) for network in networks}
    plain = {network: section.find(_ADV, network=network) for network in networks}
    clean = {network: section.find("0% adv + 100% clean", network=network) for network in networks}
    column = strongest(section, [e for e in (*star.values(), *plain.values()) if e and e.filled])
    panels = [(f"{_ADV}*", star, column, 0), (_ADV, plain, column, 0)]
    panels += [("0% adv + 100% clean", clean, CLEAN, 1)]
    curves = []
    for label, entries, measured, panel in panels:
        if measured is None:
            continue
        points = {
            depth: entry.numbers[measured]
            for (depth, _), entry in entries.items()
            if entry and measured in entry.numbers
        }
        if len(points) > 1:  # a single depth says nothing of depth
            curves.append(Curve(label, points, panel))
    robust = column_name(section, column) if column else ""
    return Chart(
        "Figure 7",
        "Deeper networks",
        "depth",
        (f"{robust} accuracy (%)", "clean accuracy (%)"),
        curves,
    )
