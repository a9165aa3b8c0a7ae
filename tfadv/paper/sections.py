"""Sections of the report: results that may stand in one table, the paper's setting first."""

import collections
import functools
import statistics
import types
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from tfadv.paper import settings
from tfadv.paper.results import ATTACK, COLUMN, DATA, setting_names, step_size
from tfadv.settings import TRAIN, Role, names
from tfadv.tables import attacks

NO_ATTACK = (0, 0.0)
_STEPS, _SIZE = COLUMN
_AXES = ["called", "batch_size", "attack_steps"]


def split(
    published: pd.DataFrame, runs: pd.DataFrame, evaluation: types.SimpleNamespace
) -> tuple["Section", list["Section"]]:
    """Divides results into sections.

    A run stands beside the paper's numbers if it has the settings of one of the paper's rows, or
    differs from the paper's own setting in strategy, depth, batch size and attack steps alone; and
    then only with the results that were measured as the paper's.

    Args:
        published: The paper's numbers, from `results.published`.
        runs: The results of runs, from `results.merged`.
        evaluation: The settings of `flags/eval/paper.flags`.

    Returns:
        The paper's `Section`, and a list of the other ones.
    """
    results = pd.concat([published, runs], ignore_index=True)
    trained = setting_names(published)
    varied = Role.STRATEGY | Role.AXIS

    def kind(columns):
        """A number for each row, equal where the columns are."""
        return results.groupby(list(columns), sort=False, dropna=False).ngroup()

    def without(roles):
        return [name for name in trained if name not in names(TRAIN, roles)]

    results = results.assign(
        entry=kind([*trained, "domain"]),
        training=kind(trained),
        threat=kind(names(TRAIN, Role.ATTACK)),
        common=kind(without(varied | Role.ATTACK)),
        beside_recipe=kind(without(varied | Role.RECIPE)),
        data=kind(DATA),
        protocol=kind(ATTACK),
    )
    ours, home = results["run"].notna(), results.iloc[0]
    size = results[_STEPS].map(functools.partial(step_size, evaluation))
    measured = (results["protocol"] == home["protocol"]) | (results[_STEPS] == 0)
    measured &= (results["data"] == home["data"]) & (results[_SIZE] == size)
    known = results["training"].isin(results.loc[~ours, "training"])
    results["comparable"] = measured & (known | _alike(results, home))
    return Section(results[~ours | results["comparable"]], paper=True), _others(results[ours])


def _alike(trained, home):
    """Whether trainings differ from another one in strategy and axes alone.

    A network that was trained on clean images alone goes with every attack in training.
    """
    attackless = pd.isna(trained["epsilon"]) | pd.isna(home["epsilon"])
    return (trained["common"] == home["common"]) & (
        (trained["threat"] == home["threat"]) | attackless
    )


def _others(results):
    """The sections of the results that are not comparable with the paper's numbers."""
    # Accuracy on clean images belongs to each attack on the same run.
    attacked, keys = results[_STEPS] > 0, ["run", "data", "protocol"]
    attacks = results.loc[attacked, keys].drop_duplicates()
    attacks["group"] = range(len(attacks))
    clean = results[~attacked].drop(columns="protocol").merge(attacks, how="left", on=keys[:2])
    rows = pd.concat([results[attacked].merge(attacks, on=keys), clean])
    taken = rows.groupby(keys, dropna=False)["comparable"].transform("all")
    rows = rows[~taken & (~rows["comparable"] | (rows[_STEPS] == 0))]
    # Results that go with every attack come last, when all attacks are known.
    rows["unattacked"], rows["attackless"] = rows["group"].isna(), rows["epsilon"].isna()
    rows = rows.sort_values(["unattacked", "attackless", "group"], kind="stable", ignore_index=True)
    sections = []
    for _, group in rows.groupby(["common", "threat", *keys[1:]], sort=False, dropna=False):
        fitting = [parts for parts in sections if _fits(group.iloc[0], parts[0].iloc[0])]
        if not fitting:
            fitting = [[]]
            sections += fitting
        for parts in fitting:
            parts.append(group)
    return [Section(pd.concat(parts).sort_index()) for parts in sections]


def _fits(row, home):
    attack = row["protocol"] == home["protocol"] or pd.isna(row["protocol"])
    return attack and row["data"] == home["data"] and _alike(row, home)


class Section:
    """Results that were measured alike, and trained alike but for strategies and axes.

    Args:
        results: Rows of the results, with what `split` adds to them. The first row is of the
            setting that all of them share.
        paper: Whether it is the paper's setting, whose numbers may stand beside ours.

    Attributes:
        results, paper: The arguments.
        setting: The first row.
        entries: DataFrame, a row for each training and branch: its settings, the names of its
            `strategy` and its network (`called`), its attack in training (`attack_steps`,
            `(num_steps, step_size)`), and whether a run has `filled` it.
        numbers: DataFrame, a row for each entry and `(num_steps, step_size)` of an evaluation: the
            mean accuracy of `n` runs (`ours`), their standard deviation (`spread`) or of a single
            run the interval (`low`, `high`), the paper's number, and how far ours is from it.
        base: The network (`called`), `batch_size` and `attack_steps` that most strategies were
            trained with: in the paper ResNet-152, 4096 and PGD-30.
        columns, attacks: Dictionaries, from `(num_steps, step_size)` to the name of an attack in
            evaluation, and in training.
        measured: Like `columns`, without the step sizes that tell equal names apart.
    """

    def __init__(self, results: pd.DataFrame, paper: bool = False):
        self.results = results
        self.paper = paper
        self.setting = results.iloc[0]
        self.numbers = _numbers(results)
        entries = _entries(results)
        # The paper's tables stay as they are, whatever runs there are.
        usual = entries[entries["place"].notna()] if paper else entries
        self.base = _base(usual)
        stars = usual.loc[usual["running_statistics"] > 0, "running_statistics"]
        last = 10 if stars.empty else stars.mode().max()
        strategies = [
            settings.strategy(each, each["domain"], last) for each in entries.to_dict("records")
        ]
        self.entries = entries.assign(strategy=strategies)
        at = results[COLUMN].itertuples(index=False, name=None)
        self.measured = dict(zip(at, results["measured"], strict=True))
        self.columns = attack_names(self.measured)
        trained = {
            at: attacks.name(attack, at[0])
            for at, attack in zip(entries["attack_steps"], entries["attack"], strict=True)
            if at != NO_ATTACK
        }
        self.attacks = {**attack_names(trained), NO_ATTACK: "-"}
        alike = self.entries[_alike(entries, self.setting)].drop_duplicates(["strategy", *_AXES])
        at = alike[["strategy", *_AXES]].itertuples(index=False, name=None)
        self._places = dict(zip(at, alike.index, strict=True))

    def find(self, strategy: str, **axes) -> int | None:
        """The entry of a strategy at the base, except for the axes that are given."""
        at = {**self.base, **axes}
        # A network that was trained on clean images alone goes with every attack.
        for steps in (at["attack_steps"], NO_ATTACK):
            entry = self._places.get((strategy, at["called"], at["batch_size"], steps))
            if entry is not None:
                return entry
        return None

    def strongest(self, entries: Iterable[int | None]) -> tuple | None:
        """The column with the most attack steps that all of some entries were measured with.

        It is PGD-2000 in the paper's setting, and None if nothing was attacked.
        """
        if self.paper:
            return max(self.numbers["paper"].dropna().index.droplevel("entry"))
        numbers = self.numbers.query("n > 0").reset_index()
        numbers = numbers[numbers["entry"].isin(list(entries)) & (numbers[_STEPS] > 0)]
        count = numbers.groupby(COLUMN).size()
        shared = count[count == numbers["entry"].nunique()]
        return max(shared.index if len(shared) else count.index, default=None)


def _entries(results):
    entries = results.drop_duplicates("entry").set_index("entry")
    by_entry = results.groupby("entry")
    records = entries.to_dict("records")
    return entries.assign(
        filled=by_entry["run"].count() > 0,
        place=by_entry["place"].min(),
        place_in_table_3=by_entry["place_in_table_3"].max(),
        called=[settings.network(each) for each in records],
        attack_steps=[(each["num_steps"] or 0, each["step_size"] or 0.0) for each in records],
        strategy=[settings.strategy(each) for each in records],
    )


def _base(entries):
    """The network, batch size and attack that most strategies were trained with, by name."""
    entries = entries.assign(
        attacked=entries["epsilon"].notna(),
        strategies=entries.groupby(_AXES)["strategy"].transform("nunique"),
    )
    # In a tie the larger one wins.
    order = ["attacked", "strategies", "attack_steps", "depth", "blocks", "batch_size"]
    return entries.sort_values(order)[_AXES].iloc[-1].to_dict()


def _numbers(results):
    numbers = results.groupby(["entry", *COLUMN]).agg(
        ours=("ours", _mean),
        low=("low", "first"),
        high=("high", "first"),
        spread=("ours", "std"),
        n=("ours", "count"),
        paper=("paper", "first"),
        runs=("run", lambda runs: " ".join(runs.dropna())),
    )
    # An interval is about the images of one run; over several runs their spread says more.
    numbers.loc[numbers["n"] > 1, ["low", "high"]] = np.nan
    for ours, difference in (("ours", ""), ("low", "_low"), ("high", "_high")):
        numbers[f"difference{difference}"] = numbers[ours] - numbers["paper"]
    return numbers


def _mean(accuracies):
    """The exactly rounded mean, since means of counts often lie halfway between printed numbers."""
    accuracies = accuracies.dropna()
    return statistics.fmean(accuracies) if len(accuracies) else np.nan


def attack_names(attacks: Mapping[tuple, str]) -> dict:
    """Names by `(num_steps, step_size)`, ascending, with the step size where two are alike.

    Args:
        attacks: Names by `(num_steps, step_size)`, such as `"PGD-10"`, or `"clean"`.
    """
    same = collections.Counter(attacks.values())
    return {
        at: name + (f", step {at[1]:g}" if same[name] > 1 else "")
        for at, name in sorted(attacks.items())
    }
