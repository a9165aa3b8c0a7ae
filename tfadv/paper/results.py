"""Results as rows of one table: the paper's numbers, and what was measured of finished runs.

A row has the settings of a training, under the names of their flags; how it was evaluated, under
names such as `evaluation.epsilon`; the branch (`domain`); and an accuracy in percent, of the paper
(`paper`) or of a run (`ours`, with its 95% interval `low` and `high`).
"""

import dataclasses
import math
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterable

import pandas as pd

from tfadv.results import Result
from tfadv.tables import attacks, datasets

# The evaluated images and network, and the attack: only results that agree in both are compared.
DATA = [f"evaluation.{name}" for name in ("dataset", "image_size", "images", "whole", "checkpoint")]
ATTACK = [
    *("evaluation.attack", "evaluation.epsilon", "evaluation.targeted", "evaluation.attack_loss"),
    *("evaluation.start_from_clean", "evaluation.clip_start"),
    *("evaluation.restarts", "evaluation.attack_precision"),
]
# A column of a table: the number of attack steps and their size; 0 and 0.0 for clean images, 1 and
# 0.0 for an attack without steps. Its name is in `measured`.
COLUMN = ["evaluation.num_steps", "evaluation.step_size"]
_ACCURACIES = ["ours", "low", "high", "paper"]
_PLACES = ["place", "place_in_table_3"]
_DOMAINS = (None, "adv", "clean")
_RESULT = ["run", "file", "domain", "measured", "correct", "total", *_ACCURACIES, *_PLACES]

_PAPER = pathlib.Path(__file__).with_name("paper.tsv")
# Clean accuracy through the clean branch, which Table 1 gives as +0.4 and -0.5 to 78.9.
_CLEAN_BRANCH = {"table7/resnet152-pgd30-mbn": 79.3, "table7/resnet152-pgd30-mbn-alp": 78.4}


def table(rows: Iterable[dict]) -> pd.DataFrame:
    """Rows as a DataFrame, in which a setting without a value is None."""
    results = pd.DataFrame(list(rows), dtype=object)
    results = results.reindex(columns=results.columns.union(_RESULT, sort=False))
    numbers = dict.fromkeys([*_ACCURACIES, *_PLACES, "evaluation.step_size"], float)
    return results.astype({**numbers, "evaluation.num_steps": int})


def setting_names(results: pd.DataFrame) -> list[str]:
    """The columns that are settings of a training."""
    return [name for name in results if name not in _RESULT and not name.startswith("evaluation.")]


def published(trained: Callable[[str], dict], evaluation: types.SimpleNamespace) -> pd.DataFrame:
    """The paper's numbers as results.

    Args:
        trained: Gives the settings of a run, in canonical form, for the name of its flagfile.
        evaluation: The flags of `flags/eval/paper.flags`.

    Returns:
        A DataFrame, whose `place` is that of a row in the paper's tables, and `place_in_table_3`
        that in Table 3. Its first row is of the paper's own setting.
    """
    rows = []
    lines = pd.read_csv(_PAPER, sep="\t", dtype=str)
    runs = {name: trained(name) for name in lines["flagfile"].unique()}
    for place, line in lines.iterrows():
        run = runs[line["flagfile"]]
        for name, accuracy in line["clean":].dropna().items():
            steps = 0 if name == "clean" else int(name.removeprefix("pgd"))
            rows.append(
                {
                    **run,
                    "domain": "adv" if run["norm"] == "mbn" else None,
                    COLUMN[0]: steps,
                    "measured": attacks.name(evaluation.attack, steps) if steps else "clean",
                    "place": place,
                    "place_in_table_3": place if line["table"] == "3" else None,
                    "paper": float(accuracy),
                }
            )
    for name, accuracy in _CLEAN_BRANCH.items():
        clean = {"domain": "clean", COLUMN[0]: 0, "measured": "clean", "paper": accuracy}
        rows.append({**runs[name], **clean})
    first = rows[0]
    validation = datasets.ENTRIES[first["dataset"]].num_validation
    data = (first["dataset"], first["image_size"], validation, True, "final")
    attack = (
        *(attacks.label(evaluation.attack), float(evaluation.epsilon)),
        *(evaluation.targeted, evaluation.attack_loss),
        *(float(evaluation.start_from_clean), evaluation.clip_start),
        *(evaluation.restarts, evaluation.attack_precision),
    )
    for row in rows:
        row.update(zip(DATA + ATTACK, data + attack, strict=True))
        row[COLUMN[1]] = step_size(evaluation, row[COLUMN[0]])
    return table(rows)


def step_size(evaluation: types.SimpleNamespace, num_steps: int) -> float:
    """The step size that the paper's evaluation gives an attack of so many steps."""
    if not num_steps:
        return 0.0
    return attacks.effective_step_size(
        evaluation.step_size_rule, evaluation.step_size, evaluation.epsilon, num_steps
    )


class Run:
    """A finished run and its results.

    Args:
        name: Its directory.
        settings: What it was trained with, in canonical form.

    Attributes:
        doubts: The doubts that its evaluations have about themselves, a line each.
    """

    def __init__(self, name: str, settings: dict):
        self.name = name
        self.settings = settings
        self.doubts: list[str] = []
        self._measured: dict = {}  # what was measured -> the result, and its row

    @property
    def rows(self) -> list[dict]:
        """Its results, as rows of `table`."""
        return [row for _, row in self._measured.values()]

    def add(self, document: dict, file: str) -> list[str]:
        """Adds the results of one file of `tfadv.evaluate`.

        Args:
            document: The contents of the file.
            file: Its name.

        Returns:
            A line for each result that is left out, with the reason.

        Raises:
            ValueError: If it is not a results file.
        """
        try:
            data = self._data(document)
            measured = [
                (result, self._row(data, result, file))
                for result in map(_result, document["results"])
            ]
            doubts = [_doubt(file, **doubt) for doubt in document.get("doubts") or ()]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"not a results file of tfadv.evaluate ({reason})") from None
        self.doubts += doubts
        return [problem for problem in (self._keep(*each) for each in measured) if problem]

    def _data(self, document):
        name = pathlib.PurePath(document["model"]).name
        epoch = re.fullmatch(r"epoch-(\d+)\.keras", name)
        if name == "model.keras" or (epoch and int(epoch[1]) == self.settings["epochs"]):
            checkpoint = "final"
        elif epoch:
            checkpoint = f"epoch {int(epoch[1])}"
        else:
            checkpoint = "best" if name == "best.keras" else name
        return (
            _checked("dataset", document["dataset"], str),
            _checked("image_size", document["image_shape"][0], int),
            document["results"][0]["total"],
            _checked("whole", document["whole_validation_set"], bool),
            checkpoint,
        )

    def _row(self, data, result, file):
        _, _, images, *_ = data
        if result.total != images:
            raise ValueError(f"total={result.total}, but {images} images in the first result")
        attack, column = (None,) * len(ATTACK), (0, 0.0)
        if not result.is_clean:
            chance = result.start_from_clean
            attack = (
                result.attack or "PGD",  # older files do not say
                *(float(result.epsilon), result.targeted, result.loss),
                None if chance is None else float(chance),
                # Nothing is clipped of a start from the image; and older files do not say.
                None if chance is None else bool(result.clip_start) and chance < 1,
                result.restarts,
                result.precision or "float32",  # older files do not say
            )
            column = (result.num_steps or 1, float(result.step_size or 0.0))
        low, high = result.interval
        return {
            **self.settings,
            **dict(zip(DATA + ATTACK, data + attack, strict=True)),
            **dict(zip(COLUMN, column, strict=True)),
            **dict(run=self.name, file=file, domain=result.domain, measured=result.name),
            **dict(correct=result.correct, total=result.total),
            **dict(ours=100 * result.accuracy, low=100 * low, high=100 * high),
        }

    def _keep(self, result, row):
        """Keeps a result, or says why not."""
        norm, file = self.settings["norm"], row["file"]
        if (norm == "mbn") != (result.domain is not None):
            branch = f"of a branch ({result.domain})" if result.domain else "of no branch"
            return f"{file}: {result.name} is {branch}, of norm={norm}"
        key = tuple(row[name] for name in (*DATA, *ATTACK, *COLUMN, "domain"))
        kept, first = self._measured.setdefault(key, (result, row))
        if kept == result:
            return None
        return (
            f"{file}: {result.name} is in {first['file']} too, with other numbers or another seed; "
            "that one counts"
        )


def _result(record):
    """The `Result` of a record of JSON; raises `ValueError` for values of the wrong kind."""
    fields = dataclasses.fields(Result)
    result = Result(**{field.name: record[field.name] for field in fields if field.name in record})
    for field in fields:
        _checked(field.name, getattr(result, field.name), field.type)
    steps = range(2**31)  # a table holds no larger ones
    known = result.num_steps is None or result.num_steps in steps
    if not known or result.total < 1 or result.domain not in _DOMAINS:
        raise ValueError(f"{result.num_steps} steps, {result.total} images, {result.domain!r}")
    if not 0 <= result.correct <= result.total:
        raise ValueError(f"correct={result.correct} of total={result.total}")
    return result


def _checked(name, value, kind):
    """A value of JSON; raises `ValueError` unless it is of a type, or of one of a union."""
    kinds = typing.get_args(kind) or (kind,)
    kinds += (int,) if float in kinds else ()
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name}={value!r}")
    return value


def _doubt(file, check, domain, message):
    return f"{file}: {check}{f' ({domain} branch)' if domain else ''}: {message}"
