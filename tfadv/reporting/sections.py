"""Runs that may stand in one table: the paper's own setting, and every other one by itself."""

import collections
import dataclasses

from tfadv.reporting import settings as meaning
from tfadv.reporting.numbers import Number
from tfadv.reporting.paper import CLEAN_BRANCH
from tfadv.reporting.runs import Protocol


@dataclasses.dataclass
class Entry:
    """One training, through one branch: a row of Table 7.

    Args:
        settings: Dictionary, of `settings.canonical`.
        domain: `"adv"` or `"clean"`; None for a network without a mixture.
        tables: Dictionary, table of the paper in which it is a row -> its place there.
        numbers: Dictionary, `Column` -> `Number`.
    """

    settings: dict
    domain: str | None
    tables: dict = dataclasses.field(default_factory=dict)
    numbers: dict = dataclasses.field(default_factory=dict)

    def number(self, column):
        """The `Number` of a column, which is there from now on."""
        return self.numbers.setdefault(column, Number())

    @property
    def filled(self):
        """Whether a run of ours is in it."""
        return any(self.numbers.values())


@dataclasses.dataclass
class Section:
    """Entries that are measured alike, and trained alike but for strategies and axes.

    Args:
        common: Dictionary, the settings that its entries share.
        protocol: `Protocol`.
        paper: Whether its setting is the paper's, so that its numbers may stand beside ours.
        entries: List of `Entry`.
    """

    common: dict
    protocol: Protocol
    paper: bool = False
    entries: list = dataclasses.field(default_factory=list)

    def entry(self, settings, domain):
        """The entry of some settings and a branch, which is there from now on."""
        for entry in self.entries:
            if (entry.settings, entry.domain) == (settings, domain):
                return entry
        self.entries.append(Entry(settings, domain))
        return self.entries[-1]

    def add(self, run, measurements):
        """Adds measurements of a run."""
        for measurement in measurements:
            entry = self.entry(run.settings, measurement.result.domain)
            entry.number(measurement.column).results.append((run.name, measurement))

    @property
    def runs(self):
        """Names of its runs."""
        numbers = [number for entry in self.entries for number in entry.numbers.values()]
        return list(dict.fromkeys(run for number in numbers for run in number.runs))

    @property
    def columns(self):
        """Every `Column` that a run of ours fills, and in the paper's section the paper's."""
        return sorted(
            {
                column
                for entry in self.entries
                for column, number in entry.numbers.items()
                if number or number.paper is not None
            }
        )

    @property
    def _deciding(self):
        """The entries that say what is usual here: runs of ours do not move the paper's tables."""
        return [entry for entry in self.entries if entry.tables or not self.paper]

    @property
    def last_epochs(self):
        """Epochs on running statistics that a plain `*` stands for: those of most entries."""
        counts = collections.Counter(e.settings["running_statistics"] for e in self._deciding)
        del counts[0]
        return max(counts, key=lambda n: (counts[n], n), default=10)

    def label(self, entry):
        """The name of an entry's strategy."""
        return meaning.strategy(entry.settings, entry.domain, self.last_epochs)

    @property
    def base(self):
        """The settings by axis that most strategies were trained with: `(network, batch, attack)`.

        The paper's are ResNet-152, 4096 and PGD-30.
        """
        strategies = collections.defaultdict(set)
        for entry in self._deciding:
            strategies[axes(entry)].add(meaning.strategy(entry.settings))
        return max(strategies, key=lambda at: (at[2] is not None, len(strategies[at]), _size(at)))

    def find(self, label, network=None, batch=None, attack=None):
        """The entry of a strategy, at the base but for the axes that are given; None without one.

        Args:
            label: Of the strategy.
            network: Tuple (depth, blocks).
            batch: Integer.
            attack: Tuple (num_steps, step_size).
        """
        base = self.base
        wanted = network or base[0], batch or base[1], attack or base[2]
        for entry in self.entries:
            at = axes(entry)
            # A network that was trained on clean images alone stands beside every attack.
            if at[:2] != wanted[:2] or at[2] not in (wanted[2], None):
                continue
            if self.label(entry) == label and alike(meaning.common(entry.settings), self.common):
                return entry
        return None


def axes(entry):
    """`(network, batch, attack)` of an entry, as of `Section.find`."""
    settings = entry.settings
    network = settings["depth"], settings["blocks"]
    return network, settings["batch_size"], meaning.attack(settings)


def alike(one, other):
    """Whether two trainings share all that `settings.common` names.

    One without an attack is like any that has one.
    """
    attackless = any(each["epsilon"] is None for each in (one, other))
    return all(
        one[name] == other[name] for name in one if not (attackless and name in meaning.ATTACK)
    )


def papers(rows, protocol, runs):
    """The section of the paper's own setting.

    Args:
        rows: List of `PaperRow`, with their settings.
        protocol: `PaperProtocol`.
        runs: List of `Run`.

    Returns:
        A `Section` with an entry for every row, and for every other run that differs from one in
        strategy, depth, batch size or number of attack steps alone and was measured like it.
    """
    section = Section({}, protocol.protocol, paper=True)
    for row in rows:
        domain = "adv" if row.settings["norm"] == "mbn" else None
        entry = section.entry(row.settings, domain)
        entry.tables |= row.tables
        for num_steps, value in row.numbers.items():
            entry.numbers[protocol.column(num_steps)] = Number(value)
    base = section.base
    section.common = next(meaning.common(e.settings) for e in section.entries if axes(e) == base)
    for entry in list(section.entries):
        value = CLEAN_BRANCH.get(meaning.strategy(entry.settings, "clean"))
        if axes(entry) == base and entry.domain == "adv" and value is not None:
            branch = section.entry(entry.settings, "clean")
            branch.numbers[protocol.column(0)] = Number(value)
    known = [entry.settings for entry in section.entries]
    for run in runs:
        if run.settings in known or alike(meaning.common(run.settings), section.common):
            section.add(run, filter(protocol.measures, run.measurements))
    return section


def others(section, protocol, runs):
    """Everything that may not stand beside the paper's numbers, by its setting.

    Args:
        section: Of `papers`.
        protocol: `PaperProtocol`.
        runs: List of `Run`.

    Returns:
        A list of `Section`.
    """
    groups = []
    taken = {id(m) for e in section.entries for n in e.numbers.values() for _, m in n.results}
    for run in runs:
        for kind, measurements in _by_protocol(run).items():
            if not all(id(measurement) in taken for measurement in measurements):
                left = [m for m in measurements if id(m) not in taken or not m.column.num_steps]
                groups.append((run, kind, left))
    # What goes with every attack comes last, when it is known which attacks there are.
    groups.sort(key=lambda group: (group[1].attack is None, not group[0].settings["adversarial"]))
    found = []
    for run, kind, measurements in groups:
        common = meaning.common(run.settings)
        fitting = [
            each for each in found if _fits(each.protocol, kind) and alike(each.common, common)
        ]
        if not fitting:
            fitting = [Section(common, kind)]
            found += fitting
        for each in fitting:
            each.add(run, measurements)
    return found


def _by_protocol(run):
    """Protocol -> measurements; those of clean images stand with every attack of theirs."""
    found = {}
    for measurement in sorted(run.measurements, key=lambda m: not m.column.num_steps):
        kinds = [measurement.protocol]
        if not measurement.column.num_steps:
            kinds = [kind for kind in found if kind.data == measurement.protocol] or kinds
        for kind in kinds:
            found.setdefault(kind, []).append(measurement)
    return found


def _fits(protocol, kind):
    return protocol == kind or (kind.attack is None and protocol.data == kind)


def _size(at):
    """So that of equals the largest is chosen."""
    network, batch, attack = at
    return attack or (0, 0), network, batch
