"""The report: every table and figure with our numbers beside the paper's, and what is left out."""

import re
import types
from collections.abc import Mapping

import pandas as pd

from tfadv.paper import figures, findings, results, sections, tables
from tfadv.paper.results import ATTACK, COLUMN, DATA
from tfadv.settings import TRAIN, Role, names

_LEGEND = (
    "Accuracy in percent, with the 95% Wilson interval that the number of images leaves in "
    "brackets; over n runs their mean ± standard deviation. In parentheses, where the paper's "
    "table states a change: the change against the row that it refers to."
)
_DIFFERENCE = (
    "The difference is ours minus the paper's, whose number counts as exact: its interval speaks "
    "of the images of one run, not of another training."
)

_CONTRAST = (
    "Differences are paired image by image; in brackets stands their 95% interval over images and, "
    "where every strategy has several runs, seeds. A finding held or did not hold if the whole "
    "interval says so; with a single run of a strategy it is undecided."
)

_RESULTS = [
    *("run", "file", "setting", "network", "batch", "training_with", "strategy", "domain"),
    *("measured", "step_size", "correct", "total", "ours", "low", "high"),
    *("paper", "difference", "comparable"),
]


class Report:
    """The paper's tables and figures from finished runs.

    Args:
        published: The paper's numbers, from `results.published`.
        evaluation: The settings of `flags/eval/paper.flags`.
        runs: The results of each run, from `results.merged`.
        doubts: The doubts that their evaluations have about themselves, a line each.
        problems: The files and results that were left out, a line each.
        channels: The statistics of every channel by run, from `statistics.csv` of
            `tfadv.inspect`; None without any.

    Attributes:
        paper: The `Section` of the paper's own setting.
        others: The other sections, by name.
    """

    def __init__(
        self,
        published: pd.DataFrame,
        evaluation: types.SimpleNamespace,
        runs: list[pd.DataFrame],
        doubts: list[str],
        problems: list[str],
        channels: Mapping[str, pd.DataFrame] | None = None,
    ):
        self.runs = runs
        self._channels = channels or {}
        self.doubts = doubts
        self.problems = problems
        self._training = results.setting_names(published)
        self.paper, others = sections.split(published, pd.concat(runs), evaluation)
        self.others = dict(zip(_names(others, self._training), others, strict=True))

    @property
    def summary(self) -> str:
        """Some lines for a terminal."""
        filled, place = self.paper.entries["filled"], self.paper.entries["place"]
        rows = f"{place[filled].count()} of the paper's {place.count()} rows filled"
        if beyond := place[filled].isna().sum():
            rows += f", and {beyond} more in its setting"
        lines = [f"runs:         {len(self.runs)}", f"comparable:   {rows}"]
        for name, section in self.others.items():
            rows = f"{len(section.entries)} row" + ("s" if len(section.entries) != 1 else "")
            lines.append(f"other:        {name}, {rows}, not comparable with the paper")
        return "\n".join(lines)

    def files(self) -> dict[str, str | bytes]:
        """The contents of every file of the report, by its name."""
        files: dict[str, str | bytes] = {}
        parts = [f"# Report\n\n```\n{self.summary}\n```"]
        if self.problems:
            parts.append("Left out:\n\n" + "\n".join(f"- {each}" for each in self.problems))
        if self.doubts:
            lines = "\n".join(f"- {each}" for each in self.doubts)
            parts.append(f"Evaluations that doubt themselves:\n\n{lines}")
        parts.append("## The paper's tables")
        if self.paper.entries["filled"].any():
            how = _protocol(self.paper.setting)
            parts.append(f"{_LEGEND} {_DIFFERENCE}\n\nMeasured as in the paper: {how}.")
            parts += self._section(self.paper, "", files)
        else:
            parts.append("No run was trained and measured as in the paper.")
        if self.others:
            parts.append("## Other data or sizes: not comparable with the paper")
            parts.append(f"{_LEGEND} The paper's numbers do not belong here.")
        for name, section in self.others.items():
            parts += [
                f"### {name}",
                _differences(section.setting, self.paper.setting, self._training),
                f"Measured: {_protocol(section.setting)}. Tables that vary one thing stand at: "
                f"{_base(section)}. What is not named here is as in the paper.\n\n"
                f"Runs: {', '.join(section.results['run'].unique())}.",
                *self._section(section, f"{name}-", files),
            ]
        across = tables.table3_across(list(self.others.values()))
        if across:
            parts.append("### Across these settings")
        for number, table in enumerate(across, 1):
            slug = "other-table3" + (f"-{number}" if number > 1 else "")
            parts += _table(table, False, slug, files)
        named = {"paper": self.paper, **self.others}
        files["results.csv"] = tables.csv(
            pd.concat(_results(name, section) for name, section in named.items())
        )
        return {"report.md": "\n\n".join(parts) + "\n", **files}

    def _section(self, section, prefix, files):
        """Findings, tables and figures of a section, in Markdown; their files go to `files`."""
        parts = []
        answered = findings.findings(section, self._channels)
        if answered:
            level = "###" if section.paper else "####"
            parts += [f"{level} The paper's findings in these runs", _findings(answered)]
        for table in tables.tables(section):
            parts += _table(table, section.paper, prefix + _slug(table.name), files)
        for chart in figures.charts(section):
            figure = figures.draw(chart, "" if section.paper else _title(section))
            slug = prefix + _slug(chart.name)
            for kind in ("png", "svg"):
                files[f"{slug}.{kind}"] = figures.render(figure, kind)
            parts.append(_heading(chart.name, chart.title, section.paper))
            parts.append(f"![{chart.name}]({slug}.png)")
        return parts


def _findings(answered):
    rows = [
        [finding.claim if not number else "", *answer]
        for finding in answered
        for number, answer in enumerate(finding.answers)
    ]
    table = tables.markdown(["finding", "compared", "points", "verdict"], rows, 4)
    return f"{_CONTRAST}\n\n{table}"


def _table(table, paper, slug, files):
    files[f"{slug}.csv"] = table.csv()
    return [_heading(table.name, table.caption, paper), table.markdown(paper)]


def _slug(name):
    """`"table4"` for `"Table 4"`, for the names of files."""
    return name.lower().replace(" ", "")


def _heading(name, caption, paper):
    start = f"### {name}" if paper else f"#### As {name}"
    return f"{start}: {tables.escaped(caption)}"


def _results(name, section):
    """Every result of the runs of a section, a row each."""
    order = pd.Series(range(len(section.entries)), section.entries.index, name="order")
    entries = section.entries[["called", "strategy", "attack_steps"]].join(order)
    rows = section.results.dropna(subset="run").drop(columns=["network", "paper"])
    rows = rows.join(entries, on="entry").join(section.numbers["paper"], on=["entry", *COLUMN])
    rows = rows.sort_values(["order", *COLUMN], kind="stable")
    return rows.assign(
        setting=name,
        training_with=rows["attack_steps"].map(section.attacks).replace("-", ""),
        step_size=rows[COLUMN[1]].map(lambda size: str(size) if size else ""),
        difference=rows["ours"] - rows["paper"],
        comparable="yes" if section.paper else "no",
    ).rename(columns={"called": "network", "batch_size": "batch"})[_RESULTS]


def _title(section):
    """The setting of a section in words: `"digits, small_resnet, epsilon 80"`."""
    setting = section.setting
    parts = [setting["evaluation.dataset"], setting["network"]]
    if setting["evaluation.epsilon"] is not None:
        parts.append(f"epsilon {setting['evaluation.epsilon']:g}")
    return ", ".join(parts)


def _names(others: list[sections.Section], training: list[str]) -> list[str]:
    """A name for each section, for files: `"digits-small_resnet-epsilon80"`, all different.

    Of several sections with the same title the largest has its name alone, and each other one adds
    the first setting in which it differs from that.
    """
    names: dict[int, str] = {}
    largest: dict[str, sections.Section] = {}
    for i in sorted(range(len(others)), key=lambda i: -len(others[i].results)):
        name = _title(others[i]).replace("epsilon ", "epsilon")
        here, home = (each.setting for each in (others[i], largest.setdefault(name, others[i])))
        differing = [each for each in _settings(here, training) if here[each] != home[each]]
        if differing:
            value = here[differing[0]]
            what = "" if isinstance(value, str) else differing[0].rpartition(".")[2]
            name += f"-{what}{_text(value)}"
        name = re.sub(r"[^\w.]+", "-", name)
        same = sum(each == name or each.startswith(f"{name}-no") for each in names.values())
        names[i] = f"{name}-no{same + 1}" if same else name
    return [names[i] for i in range(len(others))]


def _protocol(setting):
    """How a section was measured, in words."""
    dataset, image_size, images, whole, checkpoint = setting[DATA]
    words = (
        f"{images} images of {dataset}, {'the whole' if whole else 'a part of the'} validation set"
        f", at {image_size} pixels; {checkpoint} network"
    )
    attack = {name.removeprefix("evaluation."): setting[name] for name in ATTACK}
    if attack["epsilon"] is None:
        return words
    parts = [
        f"{'targeted' if attack['targeted'] else 'untargeted'} {attack['attack']}",
        f"epsilon {attack['epsilon']:g} "
        + ("of 255" if attack["attack_norm"] == "linf" else "in L2, for images from 0 to 1"),
    ]
    if attack["attack_loss"] is not None:
        parts.append(f"loss {attack['attack_loss']}")
    chance = attack["start_from_clean"]
    if chance is not None:
        start = {0: "random start", 1: "start from the image"}.get(
            chance, f"start from the image with probability {chance:g}"
        )
        parts.append(start + (", clipped to the range" if attack["clip_start"] else ""))
    parts.append(f"restarts {attack['restarts']}")
    if attack["attack_precision"] != "float32":
        parts.append(f"attacked in {attack['attack_precision']}")
    return f"{words}; {', '.join(parts)}"


def _base(section):
    """The setting of the tables that vary something else, in words."""
    at = section.base["attack_steps"]
    words = f"{section.base['called']}, batch size {section.base['batch_size']}"
    if at == sections.NO_ATTACK:
        return words
    size = f" (step size {at[1]:g})" if at[1] else ""
    return f"{words}, {section.attacks[at]} in training{size}"


def _settings(here, training):
    """The settings that the runs of a section share, with labels."""
    varied = Role.STRATEGY | Role.AXIS
    if here["epsilon"] is None:
        # It was trained without an attack, so the settings of one say nothing.
        varied |= Role.ATTACK
    left_out = names(TRAIN, varied)
    labels = {name: f"training: {name}" for name in training if name not in left_out}
    if here["evaluation.epsilon"] is not None:
        labels |= {name: name.replace(".", ": ") for name in ATTACK}
    labels |= {name: name.replace(".", ": ") for name in DATA}
    labels["evaluation.whole"] += " validation set"
    return labels


def _differences(here, paper, training):
    """How the setting of a section differs from the paper's: a table in Markdown."""
    rows = [
        [label, _text(here[name]), _text(paper[name])]
        for name, label in _settings(here, training).items()
        if here[name] != paper[name]
    ]
    if not rows:
        return "The step sizes of the evaluation differ from the paper's.\n"
    return tables.markdown(["what differs", "here", "the paper"], rows, 3)


def _text(value):
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
