"""Results as one table: the paper's numbers, and what was measured of finished runs.

A row has the settings of a training, under the names of their flags; how it was evaluated, under
names such as `evaluation.epsilon`; the branch (`domain`); and an accuracy in percent, of the paper
(`paper`) or of a run (`ours`, with its 95% interval `low` and `high`, and in `correct_images` which
images were classified correctly, where the evaluation wrote it).
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from types import SimpleNamespace

import pandas as pd

from tfadv.results import Result, unpack
from tfadv.settings import EVALUATE, Role, names
from tfadv.tables import attacks, datasets

# The evaluated images and network, and the attack: only results that agree in both are compared.
DATA = [f"evaluation.{name}" for name in ("dataset", "image_size", "images", "whole", "checkpoint")]
ATTACK = [f"evaluation.{name}" for name in names(EVALUATE, Role.ATTACK)]
# A column of a table: the number of attack steps and their size; 0 and 0.0 for clean images, 1 and
# 0.0 for an attack without steps. Its name is in `measured`.
COLUMN = ["evaluation.num_steps", "evaluation.step_size"]
_ACCURACIES = ["ours", "low", "high", "paper"]
_PLACES = ["place", "place_in_table_3"]
_DOMAINS = (None, "adv", "clean")
_RESULT = [
    *("run", "file", "domain", "measured", "correct", "total", *_ACCURACIES, *_PLACES),
    "correct_images",
]

_PAPER = Path(__file__).with_name("paper.tsv")
# Clean accuracy through the clean branch, which Table 1 gives as +0.4 and -0.5 to 78.9.
_CLEAN_BRANCH = {"table7/resnet152-pgd30-mbn": 79.3, "table7/resnet152-pgd30-mbn-alp": 78.4}


def _table(rows: Iterable[dict]) -> pd.DataFrame:
    """Rows as a DataFrame, in which a setting without a value is None."""
    results = pd.DataFrame(list(rows), dtype=object)
    results = results.reindex(columns=results.columns.union(_RESULT, sort=False))
    numbers = dict.fromkeys([*_ACCURACIES, *_PLACES, "evaluation.step_size"], float)
    return results.astype({**numbers, "evaluation.num_steps": int})


def setting_names(results: pd.DataFrame) -> list[str]:
    """The columns that are settings of a training."""
    return [name for name in results if name not in _RESULT and not name.startswith("evaluation.")]


def published(trained: Callable[[str], dict], evaluation: SimpleNamespace) -> pd.DataFrame:
    """The paper's numbers as results.

    Args:
        trained: Returns the canonical settings of a run for the name of its flagfile.
        evaluation: The settings of `flags/eval/paper.flags`.

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
    protocol = dict(zip(DATA, data, strict=True))
    protocol |= {name: getattr(evaluation, name.removeprefix("evaluation.")) for name in ATTACK}
    protocol["evaluation.attack"] = attacks.label(evaluation.attack)
    return _table(
        {**row, **protocol, COLUMN[1]: step_size(evaluation, row[COLUMN[0]])} for row in rows
    )


def step_size(evaluation: SimpleNamespace, num_steps: int) -> float:
    """The step size that the paper's evaluation gives an attack of so many steps."""
    if not num_steps:
        return 0.0
    return attacks.effective_step_size(
        evaluation.step_size_rule, evaluation.step_size, evaluation.epsilon, num_steps
    )


def measured(document: dict, run: str, file: str, settings: dict) -> tuple[pd.DataFrame, list[str]]:
    """The results in one file of `tfadv.evaluate`.

    Args:
        document: The contents of the file.
        run: The directory of the run.
        file: The name of the file.
        settings: The canonical settings of the run.

    Returns:
        A DataFrame, a row for each result, with the `Result` itself in the column `result`; and the
        doubts that the evaluation has about itself, a line each.

    Raises:
        ValueError: If it is not a results file.
    """
    try:
        results = [_result(record) for record in document["results"]]
        name = PurePath(document["model"]).name
        epoch = re.fullmatch(r"epoch-(\d+)\.keras", name)
        if name == "model.keras" or (epoch and int(epoch[1]) == settings["epochs"]):
            checkpoint = "final"
        elif epoch:
            checkpoint = f"epoch {int(epoch[1])}"
        else:
            checkpoint = "best" if name == "best.keras" else name
        images = results[0].total
        data = (
            _checked("dataset", document["dataset"], str),
            _checked("image_size", document["image_shape"][0], int),
            images,
            _checked("whole", document["whole_validation_set"], bool),
            checkpoint,
        )
        for result in results:
            if result.total != images:
                raise ValueError(f"total={result.total}, but {images} images in the first result")
        doubts = [_doubt(file, **doubt) for doubt in document.get("doubts") or ()]
        correct_images = document.get("correct_images") or [None] * len(results)
        for result, packed in zip(results, correct_images, strict=True):
            if packed is not None and unpack(packed, images).sum() != result.correct:
                raise ValueError(f"correct_images of {result.name} disagree with correct")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"not a results file of tfadv.evaluate ({reason})") from None
    rows = _table(
        {
            **settings,
            **dict(zip(DATA, data, strict=True)),
            **_attack(result),
            **dict(run=run, file=file, result=result, domain=result.domain, measured=result.name),
            **dict(correct=result.correct, total=result.total, ours=100 * result.accuracy),
            "correct_images": packed,
            **dict(zip(("low", "high"), (100 * end for end in result.interval), strict=True)),
        }
        for result, packed in zip(results, correct_images, strict=True)
    )
    return rows, doubts


def channels(path: Path) -> pd.DataFrame:
    """The statistics of every channel of a network, from the file that `tfadv.inspect` writes.

    Raises:
        ValueError: If it is no such file.
    """
    table = pd.read_csv(path)
    columns = {"layer", "domain", "channel", "moving_mean", "moving_variance"}
    if missing := columns - set(table):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def _attack(result):
    """How a result was attacked, by the names of settings; None for clean images."""
    if result.is_clean:
        return {**dict.fromkeys(ATTACK), COLUMN[0]: 0, COLUMN[1]: 0.0}
    attack, chance = vars(result) | {"attack_loss": result.loss}, result.start_from_clean
    # Older files have no attack, clip_start, precision and norm. A start from the image is not
    # clipped.
    attack["attack"] = result.attack or "PGD"
    attack["attack_precision"] = result.precision or "float32"
    attack["clip_start"] = None if chance is None else bool(result.clip_start) and chance < 1
    attack["attack_norm"] = result.norm or "linf"
    attack["num_steps"] = result.num_steps or 1
    attack["step_size"] = result.step_size or 0.0
    return {name: attack[name.removeprefix("evaluation.")] for name in (*ATTACK, *COLUMN)}


def merged(files: Iterable[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """The results of one run in all its files.

    Args:
        files: DataFrames of `measured`. Where two have the same result, the first counts.

    Returns:
        A DataFrame with one row for each result, and a line for each result that is left out.
    """
    results = pd.concat(files, ignore_index=True)
    problems: list[str] = []
    mixture = results["norm"] == "mbn"
    wrong = results["domain"].notna() != mixture
    for file, result, norm in results.loc[wrong, ["file", "result", "norm"]].itertuples(
        index=False
    ):
        branch = f"of a branch ({result.domain})" if result.domain else "of no branch"
        problems.append(f"{file}: {result.name} is {branch}, of norm={norm}")
    results = results[~wrong]
    key = results.groupby([*DATA, *ATTACK, *COLUMN, "domain"], sort=False, dropna=False).ngroup()
    first: dict[int, tuple[str, Result]] = {}
    for number, file, result in zip(key, results["file"], results["result"], strict=True):
        first_file, first_result = first.setdefault(number, (file, result))
        if result != first_result:
            problems.append(
                f"{file}: {result.name} is in {first_file} too, with other numbers or another "
                "seed; that one counts"
            )
    return results[~key.duplicated()].drop(columns="result"), problems


def _result(record):
    """The `Result` of a record of JSON; raises `ValueError` for values of the wrong type."""
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
    """A value of JSON; raises `ValueError` unless it has a type, or one of a union."""
    kinds = typing.get_args(kind) or (kind,)
    kinds += (int,) if float in kinds else ()
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name}={value!r}")
    return value


def _doubt(file, check, domain, message):
    return f"{file}: {check}{f' ({domain} branch)' if domain else ''}: {message}"
