"""Reports of an evaluation: a text table, a JSON file, TensorBoard scalars, a progress line."""

import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from tfadv import distributed, event_files, launcher, units, whole_files
from tfadv.results import Result, pack, unpack


def table(results: list[Result]) -> str:
    """Formats results as a text table: a row for each number of steps, columns for each branch.

    It shows accuracies and attack success in percent, accuracies with their 95% Wilson intervals,
    and below them the settings of the attack. An attack of several parts has a row for what is left
    after each part, how many images it attacked, and the seconds that it took (of all workers
    together).

    Args:
        results: List of `Result` of one evaluation.

    Returns:
        A string of several lines.

    Raises:
        ValueError: If there are no results or two for one cell, or if their settings differ.
    """
    cells: dict = {(result.num_steps, result.domain): result for result in results}
    if not cells or len(cells) < len(results):
        raise ValueError(
            "results must be at least one, and one for each branch and number of steps; "
            f"received {len(results)} for {len(cells)} of these"
        )
    domains = list(dict.fromkeys(result.domain for result in results))
    ordered = sorted(results, key=lambda result: (result.num_steps is None, result.num_steps))
    names: dict = {}
    for result in ordered:
        for part, correct in (result.remaining or {}).items():
            hits = result.total - correct
            cost = (result.cost or {}).get(part)
            cells[part, result.domain] = dataclasses.replace(
                result, correct=correct, hits=hits, cost=cost
            )
            names[part] = f"after {part}"
        names[result.num_steps] = result.name
    margin = max(map(len, names.values())) + 2
    lines = []
    costly = any(result.cost for result in results)
    head = f"{'accuracy [95%]':<20}  success"
    head += f"{'images':>9}{'seconds':>9}" * costly
    if domains != [None]:
        branches = (f"{domain} branch" if domain else "no branches" for domain in domains)
        lines.append(" " * margin + "  ".join(f"{branch:<{len(head)}}" for branch in branches))
    lines.append(" " * margin + "  ".join([head] * len(domains)))
    for number, name in names.items():
        row = "  ".join(_cell(cells.get((number, domain)), costly) for domain in domains)
        lines.append(f"{name:<{margin}}{row}")
    return "\n".join([line.rstrip() for line in lines] + ["", _protocol(results)])


def _cell(result, costly):
    accuracy = success = images = seconds = ""
    if result is not None:
        low, high = (f"{100 * share:.1f}" for share in result.interval)
        accuracy = f"{100 * result.accuracy:5.1f} [{low}, {high}]"
        success = "" if result.success is None else f"{100 * result.success:.1f}"
        cost = result.cost or {}
        if "images" not in cost:  # of the whole attack
            seconds = f"{sum(each['seconds'] for each in cost.values()):.1f}" if cost else ""
        else:
            images, seconds = str(cost["images"]), f"{cost['seconds']:.1f}"
    return f"{accuracy:<20}  {success:>7}" + f"{images:>9}{seconds:>9}" * costly


def _protocol(results):
    def only(name, among):
        values = {getattr(result, name) for result in among}
        if len(values) > 1:
            raise ValueError(
                f"results must have one protocol; received {name} of {sorted(values, key=str)}"
            )
        return values.pop()

    images = f"{only('total', results)} images, seed {only('seed', results)}"
    attacked = [result for result in results if not result.is_clean]
    if not attacked:
        return f"percent; no attack, {images}"
    label = only("attack", attacked) or "PGD"
    epsilon = f"{only('epsilon', attacked):g}"
    if only("norm", attacked) == "l2":
        ball = f"L2: epsilon {epsilon} for images from 0 to 1"
    else:
        ball = f"L-infinity: epsilon {epsilon} of 255"
    kind = "targeted" if only("targeted", attacked) else "untargeted"
    parts = [f"percent; {kind} {label} in {ball}"]
    numbers = {}  # step size -> numbers of steps
    for result in attacked:
        if result.step_size is not None:
            numbers.setdefault(f"{result.step_size:g}", []).append(str(result.num_steps))
    if numbers:
        listed = [f"{size} ({label}-{', '.join(dict.fromkeys(n))})" for size, n in numbers.items()]
        step_size = ", ".join(listed if len(numbers) > 1 else numbers)
        rules = {"pipeline": ", raised to epsilon/steps where larger", "fixed": ", fixed"}
        parts.append(f"step size {step_size}{rules.get(only('step_size_rule', attacked), '')}")
    chance, clip_start = only("start_from_clean", attacked), only("clip_start", attacked)
    if chance is not None:
        start = "the image"
        if chance < 1:
            start = f"random in the ball{' and clipped to the range' if clip_start else ''}"
        if 0 < chance < 1:
            start += f", the image with probability {chance:g}"
        parts.append(f"start {start}")
    parts.append(f"restarts {only('restarts', attacked)}")
    loss, precision = only("loss", attacked), only("precision", attacked)
    if loss is not None:
        parts.append(f"loss {loss}")
    if precision not in (None, "float32"):
        parts.append(f"attacked in {precision}")
    return "; ".join([*parts, images])


def write_json(
    path: str | os.PathLike,
    results: list[Result],
    correct_images: np.ndarray | None = None,
    **details: Any,
) -> None:
    """Writes results to a JSON file, on rank 0 only. A failure leaves no half-written file.

    Args:
        path: Path of the file, whose folder must exist.
        results: List of `Result`.
        correct_images: Boolean array `[results, images]`, as of `Evaluator.correct_images`, from
            which `tfadv.report` computes differences between runs image by image; or None. It is
            written as `numpy.packbits` of each row, in base64.
        **details: Values that JSON can hold, written beside the results, such as `model=`.
    """
    if distributed.rank() != 0:
        return
    document = {**details, "results": [result.as_dict() for result in results]}
    if correct_images is not None:
        document["correct_images"] = [pack(row) for row in correct_images]
    whole_files.write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(
    path: str | os.PathLike,
) -> tuple[list[Result], np.ndarray | None, dict[str, Any]]:
    """Reads what `write_json` wrote.

    Args:
        path: Path of the file.

    Returns:
        The results, the `correct_images` (None if the file has none), and the other details.

    Raises:
        ValueError: If the file holds something else.

    Example:

    ```python
    results = [tfadv.evaluation.Result(domain=None, num_steps=0, correct=374, total=500)]
    tfadv.evaluation.write_json("results.json", results)
    results, correct_images, details = tfadv.evaluation.read_json("results.json")
    ```
    """
    names = {field.name for field in dataclasses.fields(Result)}
    try:
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        results = [
            Result(**{name: value for name, value in record.items() if name in names})
            for record in document.pop("results")
        ]
        rows = document.pop("correct_images", None)
        if rows is not None:
            rows = np.stack([unpack(row, results[0].total) for row in rows])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results of an evaluation ({error})") from None
    return results, rows, document


def write_scalars(directory: str | os.PathLike, results: list[Result], step: int) -> None:
    """Writes results to TensorBoard, on rank 0 only.

    The run `{directory}` gets the scalars `accuracy/clean`, and `accuracy/pgd10` and
    `attack_success/pgd10` for each number of steps; the run `{directory}/clean_branch` gets those
    of the clean branch of a mixture. They replace those of the same step; other steps are kept.

    Args:
        directory: Path of the run.
        results: List of `Result`.
        step: Integer, the number of updates that the model was trained for.
    """
    if distributed.rank() != 0:
        return
    runs: dict[pathlib.Path, dict[str, float]] = {}
    for result in results:
        run = pathlib.Path(directory, "clean_branch" if result.domain == "clean" else "")
        scalars = runs.setdefault(run, {})
        scalars[f"accuracy/{result.key}"] = result.accuracy
        if result.success is not None:
            scalars[f"attack_success/{result.key}"] = result.success
    for run, scalars in runs.items():
        old_files = list(run.glob("events.out.tfevents.*"))
        steps = event_files.read_scalars(run)
        steps[step] = steps.get(step, {}) | scalars
        # All steps are written again, in ascending order, because TensorBoard drops later steps
        # when it reads an earlier one after them.
        file = event_files.EventFile(run, -1)
        for at, values in sorted(steps.items()):
            for tag, value in values.items():
                file.scalar(tag, value, at)
        file.close()
        for path in old_files:
            path.unlink()


def progress_bar(
    label: str = "evaluate",
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int, int | None], None]:
    """Creates a progress line with an estimate of the time left, shown on rank 0 only.

    On a terminal the line rewrites itself; elsewhere (a log file, `horovodrun`) a new line appears
    for about every tenth of the batches, ten seconds or more after the one before.

    Args:
        label: String at the beginning of the line.
        stream: Text file; None for stderr.
        clock: Function that returns seconds.

    Returns:
        A function of (batches so far, all batches or None), the `progress` of `evaluate`.

    Example:

    ```python
    data = (test_images, test_labels)
    progress = tfadv.evaluation.progress_bar()
    tfadv.evaluation.evaluate(model, data, attack, progress=progress)
    ```
    """
    left, last, shown, written = units.TimeLeft(clock), 0, None, 0.0

    def show(done, total):
        nonlocal left, last, shown, written
        if distributed.rank() != 0:
            return
        output, now = stream or sys.stderr, clock()
        if done <= last:  # of another evaluation
            left, shown = units.TimeLeft(clock), None
        last = done
        line = f"{label} {done}/{total} batches" if total else f"{label} {done} batches"
        # The first batch does not count, because it includes the compilation of the graphs.
        seconds = left(done, total) if total and left.has_begun else None
        if not left.has_begun:
            left.begin(done)
        if seconds is not None:
            line += f", about {units.in_words(seconds)} left"
        tenth = done * 10 // total if total else done
        if launcher.is_terminal(output):
            output.write(f"\r{line:<60}" + ("\n" if done == total else ""))
        elif shown is None or done == total or (tenth != shown and now >= written + 10):
            output.write(f"{line}\n")
            shown, written = tenth, now
        output.flush()

    return show
