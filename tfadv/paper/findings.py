"""The paper's findings as questions to the runs of a section: held, did not hold, or undecided.

Each answer is a contrast: a sum of accuracies (or of falls from the weakest to the strongest
attack), weighted by 1 and -1, of groups of runs that differ in their seeds alone, image by image.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from tfadv.paper.results import COLUMN
from tfadv.paper.sections import NO_ATTACK, Section
from tfadv.paper.tables import ADV, ALP, APART, BN, CLEAN, MBN, MBN_ALP, sharing
from tfadv.results import unpack
from tfadv.tables import datasets

HELD, FAILED, UNDECIDED = "held", "did not hold", "undecided"
# In points of accuracy: what counts as a fall, and how far from a network for one domain alone a
# branch of a mixture may be.
_FALL, _CLEAN_LOSS, _ROBUST_LOSS = 5.0, 1.0, 2.0
_GN = f"GN, {BN}"
_RATIOS = (100, 80, 60, 40, 20, 0)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A weighted sum of mean accuracies, in points.

    Attributes:
        value: The sum.
        low, high: Its 95% interval over images and seeds.
        runs: The numbers of runs of its groups. If one of them is 1, the spread of seeds is not
            known, and the interval is about the images alone.
    """

    value: float
    low: float
    high: float
    runs: tuple[int, ...]

    def __str__(self) -> str:
        alone = " over images alone" if min(self.runs) == 1 else ""
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]{alone}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A question, and the answers of the runs.

    Attributes:
        claim: The paper's finding.
        answers: Triples: what was compared, its figures, and the verdict, or `""`.
    """

    claim: str
    answers: list[tuple[str, str, str]]


def contrast(terms: Iterable[tuple[float, np.ndarray]]) -> Contrast:
    """Adds up means of groups of runs that were evaluated on the same images.

    The variance of the sum is that of the images (of the sum for each image, its means taken over
    the runs of each group) plus that of the seeds, group by group. It counts what is particular to
    an image and a seed twice, so the interval is a little too wide. The quantile is Student's,
    with the degrees of freedom of Welch and Satterthwaite.

    Args:
        terms: Pairs of a weight and the values of a group, `[runs, images]`, in points.

    Returns:
        A `Contrast`.
    """
    terms = list(terms)
    by_image = sum(weight * values.mean(axis=0) for weight, values in terms)
    variances = [(by_image.var(ddof=1) / len(by_image), len(by_image) - 1)]
    runs = tuple(len(values) for _, values in terms)
    if min(runs) > 1:
        for weight, values in terms:
            spread = values.mean(axis=1).var(ddof=1)
            variances.append((weight**2 * spread / len(values), len(values) - 1))
    total = sum(variance for variance, _ in variances)
    value, half = float(by_image.mean()), 0.0
    if total:
        freedom = total**2 / sum(variance**2 / degrees for variance, degrees in variances)
        half = float(stats.t.ppf(0.975, freedom) * math.sqrt(total))
    return Contrast(value, value - half, value + half, runs)


def verdict(contrast: Contrast, at_least: float = -math.inf, at_most: float = math.inf) -> str:
    """Whether a contrast lies between two limits, as far as its interval can tell.

    A single run says nothing of other seeds, so it leaves a finding undecided.
    """
    if min(contrast.runs) == 1:
        return UNDECIDED
    if at_least <= contrast.low and contrast.high <= at_most:
        return HELD
    return FAILED if contrast.high < at_least or contrast.low > at_most else UNDECIDED


def findings(section: Section, channels: Mapping[str, pd.DataFrame] | None = None) -> list[Finding]:
    """The paper's findings, as far as the runs of a section speak of them.

    Args:
        section: A section whose runs were evaluated image by image (`correct_images` in the files
            of `tfadv.evaluate`).
        channels: The statistics of every channel by run, as `tfadv.inspect` writes them.
    """
    runs = _Runs(section, channels or {})
    if runs.weakest == runs.strongest:
        return []
    questions = (_falls, _ratios, _branches, _statistics, _running, _depth, _fine_tuning, _parts)
    return [finding for question in questions if (finding := question(runs)).answers]


def distance(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The distance of two sets of moving statistics, whatever the order of their channels.

    It is the Wasserstein distance of the channels' values, over the standard deviation of both sets
    together; averaged over layers, and over means and logarithms of variances.

    Args:
        one, other: Rows of the statistics of a network, one a channel.
    """
    distances = []
    for layer, channels in one.groupby("layer"):
        for name, scale in (("moving_mean", np.asarray), ("moving_variance", np.log)):
            pair = [scale(each[name]) for each in (channels, other[other["layer"] == layer])]
            spread = np.std(np.concatenate(pair))
            distances.append(stats.wasserstein_distance(*pair) / spread if spread else 0.0)
    return float(np.mean(distances))


class _Runs:
    """The outcomes of the runs of a section, by strategy."""

    def __init__(self, section, channels):
        self.section, self.channels = section, channels
        results = section.results.dropna(subset="correct_images")
        counts = results.groupby(COLUMN)["run"].nunique().drop(NO_ATTACK, errors="ignore")
        # Not every run was evaluated with the very strongest attack, as PGD-2000.
        common = sorted(counts.index[counts == counts.max()])
        self.weakest, self.strongest = (common[0], common[-1]) if common else (None, None)
        self._results = results

    def name(self, at):
        return self.section.columns[at]

    def values(self, strategy, at, **axes):
        """Percent `[runs, images]`, 0 or 100 each; None without such runs."""
        entry = self.section.find(strategy, **axes)
        return None if entry is None else self.of_entry(entry, at)

    def of_entry(self, entry, at):
        rows = self._results[self._results["entry"] == entry]
        rows = rows[(rows[COLUMN[0]] == at[0]) & (rows[COLUMN[1]] == at[1])]
        if rows.empty:
            return None
        return np.stack(
            [100.0 * unpack(row.correct_images, int(row.total)) for row in rows.itertuples()]
        )

    def robust(self, strategy, **axes):
        return self.values(strategy, self.strongest, **axes)

    def fall(self, strategy):
        weak, strong = self.values(strategy, self.weakest), self.robust(strategy)
        return None if weak is None or strong is None else weak - strong

    @property
    def trained_on_parts(self):
        """Entries whose normalization alone was trained, with whether on adversarial images."""
        entries = self.section.entries
        entries = entries[entries["trainable"] == "norm"]
        return dict(zip(entries["adversarial"], entries.index, strict=True))


def _compared(what, terms, **limits):
    """An answer about a contrast; None if one of its groups has no runs."""
    if any(values is None for _, values in terms):
        return None
    result = contrast(terms)
    return what, str(result), verdict(result, **limits) if limits else ""


def _finding(claim, answers):
    return Finding(claim, [answer for answer in answers if answer is not None])


def _falls(runs):
    claim = (
        f"From {runs.name(runs.weakest)} to {runs.name(runs.strongest)}, one batch normalization "
        f"with clean images in training loses at least {_FALL:g} points more than training "
        "without clean images; mixture and group normalization do not"
    )
    answers = []
    for strategy, falls in ((BN, True), (APART, True), (MBN, False), (_GN, False)):
        limits = {"at_least": _FALL} if falls else {"at_most": _FALL}
        terms = [(1, runs.fall(strategy)), (-1, runs.fall(ADV))]
        answers.append(_compared(f"fall of {strategy} less that of {ADV}", terms, **limits))
    return _finding(claim, answers)


def _ratios(runs):
    name = runs.name(runs.strongest)
    answers = []
    for apart in (False, True):
        means = {}
        for ratio in _RATIOS:
            values = runs.robust(sharing(ratio, apart))
            if values is not None:
                means[ratio] = values.mean()
        if len(means) >= 4:
            rho, p = _rank_correlation(list(means), list(means.values()))
            known = HELD if rho < 0 and p < 0.05 else FAILED if rho >= 0 else UNDECIDED
            figures = ", ".join(f"{ratio}%: {value:.1f}" for ratio, value in means.items())
            what = f"{name} accuracy by the share of clean images{', apart' if apart else ''}"
            answers.append((what, f"{figures}; rank correlation {rho:+.2f}, p = {p:.3f}", known))
    return Finding("The fewer clean images in training, the more robust the network", answers)


def _rank_correlation(x, y):
    """Spearman's, and the share of all orders whose correlation is as negative or more."""
    rank_x, rank_y = stats.rankdata(x), stats.rankdata(y)
    rho = float(np.corrcoef(rank_x, rank_y)[0, 1])
    orders = [np.corrcoef(rank_x, order)[0, 1] for order in itertools.permutations(rank_y)]
    return rho, float(np.mean(np.array(orders) <= rho + 1e-9))


def _branches(runs):
    claim = (
        "Each branch of a mixture is as good as a network trained for its domain alone: at most "
        f"{_CLEAN_LOSS:g} point below it on clean images, and {_ROBUST_LOSS:g} points below it "
        f"under {runs.name(runs.strongest)}"
    )
    answers = []
    for alp in ("", ", ALP"):
        clean, adv = f"MBN_clean, {BN}{alp}", f"{MBN}{alp}"
        terms = [(1, runs.values(clean, NO_ATTACK)), (-1, runs.values(CLEAN, NO_ATTACK))]
        answers.append(_compared(f"{clean} less {CLEAN}", terms, at_least=-_CLEAN_LOSS))
        terms = [(1, runs.robust(adv)), (-1, runs.robust(ADV))]
        answers.append(_compared(f"{adv} less {ADV}", terms, at_least=-_ROBUST_LOSS))
    return _finding(claim, answers)


def _statistics(runs):
    claim = (
        "The moving statistics of a mixture's branches differ more between the domains than "
        "between seeds"
    )
    entry = runs.section.find(MBN)
    names = runs.section.results.loc[runs.section.results["entry"] == entry, "run"].unique()
    networks = [runs.channels[name] for name in names if name in runs.channels]
    by_domain = [dict(list(channels.groupby("domain"))) for channels in networks]
    domains = [distance(each["adv"], each["clean"]) for each in by_domain]
    seeds = [
        distance(one[domain], other[domain])
        for one, other in itertools.combinations(by_domain, 2)
        for domain in ("adv", "clean")
    ]
    if not seeds:
        return Finding(claim, [])
    known = UNDECIDED
    # Chance alone puts all distances of one kind above the others once in so many times.
    orders = math.comb(len(domains) + len(seeds), len(domains))
    if min(domains) > max(seeds) and orders > 20:
        known = HELD
    elif np.mean(domains) <= np.mean(seeds):
        known = FAILED
    figures = (
        f"between domains {np.mean(domains):.2f} ({min(domains):.2f} to {max(domains):.2f}), "
        f"between seeds {np.mean(seeds):.2f} ({min(seeds):.2f} to {max(seeds):.2f})"
    )
    what = f"{BN}, mixture: distance of all channels, in standard deviations"
    return Finding(claim, [(what, figures, known)])


def _running(runs):
    claim = "Running statistics in the last epochs make every robust strategy more robust"
    strategies = (BN, APART, ADV, ALP, MBN, MBN_ALP)
    return _finding(
        claim,
        [
            _compared(
                f"{strategy}* less {strategy}, {runs.name(runs.strongest)}",
                [(1, runs.robust(f"{strategy}*")), (-1, runs.robust(strategy))],
                at_least=0,
            )
            for strategy in strategies
        ],
    )


def _depth(runs):
    entries = runs.section.entries
    depths = dict(zip(entries["called"], entries["depth"], strict=True))

    def trained(strategy, at):
        values = {n: runs.values(strategy, at, called=n) for n in sorted(depths, key=depths.get)}
        return {name: value for name, value in values.items() if value is not None}

    robust, clean = trained(ADV, runs.strongest), trained(CLEAN, NO_ATTACK)
    both = [name for name in robust if name in clean]
    answers = []
    for strategy, values in ((f"{ADV}, {runs.name(runs.strongest)}", robust), (CLEAN, clean)):
        if len(both) > 1:
            figures = ", ".join(f"{name}: {value.mean():.1f}" for name, value in values.items())
            answers.append((strategy, figures, ""))
    if len(both) > 1:
        first, last = both[0], both[-1]
        terms = [(1, robust[last]), (-1, robust[first]), (-1, clean[last]), (1, clean[first])]
        what = f"from {first} to {last}: gain in adversarial training less gain in clean training"
        answers.append(_compared(what, terms, at_least=0))
    return _finding("Depth gains more in adversarial training than in clean training", answers)


def _fine_tuning(runs):
    claim = (
        "Normalization fine-tuned on clean images raises an adversarial network's accuracy on "
        "clean images; fine-tuned on adversarial images, it makes a clean network not robust "
        "(no more accurate than chance)"
    )
    answers, tuned = [], runs.trained_on_parts
    if False in tuned:
        terms = [(1, runs.of_entry(tuned[False], NO_ATTACK)), (-1, runs.values(ADV, NO_ATTACK))]
        what = f"{ADV}, fine-tuned on clean images, less before: clean images"
        answers.append(_compared(what, terms, at_least=0))
    classes = datasets.ENTRIES[runs.section.setting["dataset"]].num_classes
    if True in tuned and classes:
        terms = [(1, runs.of_entry(tuned[True], runs.strongest))]
        what = f"{CLEAN}, fine-tuned on adversarial images: {runs.name(runs.strongest)}"
        answers.append(_compared(what, terms, at_most=100 / classes))
    return _finding(claim, answers)


def _parts(runs):
    """Falls of what lies between one batch normalization and a mixture."""
    strategies = (
        *(BN, APART, f"MBN_adv, shared statistics, {BN}"),
        *(f"MBN_adv, shared statistics, {APART}", f"MBN_adv, shared affine, {BN}", MBN),
    )
    answers = []
    for strategy in strategies:
        fall, robust = runs.fall(strategy), runs.robust(strategy)
        if fall is not None:
            answers.append(
                (
                    strategy,
                    f"fall {contrast([(1, fall)])}, {runs.name(runs.strongest)} "
                    f"{contrast([(1, robust)]).value:.1f}",
                    "",
                )
            )
    claim = "What makes one batch normalization fall: its statistics, its gamma and beta, or calls"
    return Finding(claim, answers if len(answers) > 2 else [])
