"""Finished runs and what was measured of them."""

import dataclasses
import math
import pathlib
import re

from tfadv.evaluation.results import Result

_FIELDS = [field.name for field in dataclasses.fields(Result)]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How something was measured; only numbers of one protocol are compared.

    Args:
        dataset: Name of the data set that was evaluated.
        image_size: Height and width of its images, in pixels.
        images: How many of them.
        whole: Whether these are the whole validation set.
        checkpoint: `"final"`, `"best"`, or like `"epoch 30"`.
        attack: `(epsilon, targeted, loss, start_from_clean, clip_start, restarts, precision)`; None
            without an attack. Step sizes belong to the columns of a table: see `Column`.
    """

    dataset: str
    image_size: int
    images: int
    whole: bool
    checkpoint: str
    attack: tuple | None = None

    @property
    def data(self):
        """The protocol of clean images under the same circumstances."""
        return dataclasses.replace(self, attack=None)


@dataclasses.dataclass(frozen=True, order=True)
class Column:
    """What is measured: accuracy on clean images, or after an attack of some steps.

    Args:
        num_steps: 0 for clean images.
        step_size: In pixels of 255, after the rule; 0 for clean images.
    """

    num_steps: int
    step_size: float = 0.0

    @property
    def name(self):
        """`"clean"`, or like `"PGD-10"`."""
        return f"PGD-{self.num_steps}" if self.num_steps else "clean"


CLEAN = Column(0)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One result of a run, and the file that it stands in."""

    protocol: Protocol
    column: Column
    result: Result
    file: str


@dataclasses.dataclass
class Run:
    """A finished run.

    Args:
        name: Its directory.
        settings: Dictionary, of `settings.canonical`.
        measurements: List of `Measurement`.
        doubts: List of strings, the reasons that its evaluations gave not to believe them.
    """

    name: str
    settings: dict
    measurements: list = dataclasses.field(default_factory=list)
    doubts: list = dataclasses.field(default_factory=list)

    def add(self, document, file):
        """Adds the results of one file of `tfadv.evaluate`.

        Args:
            document: What its JSON says.
            file: Its name.

        Returns:
            A list of strings: what was left out and why.

        Raises:
            ValueError: If it is no results file.
        """
        try:
            data = Protocol(
                dataset=document["dataset"],
                image_size=document["image_shape"][0],
                images=document["results"][0]["total"],
                whole=document["whole_validation_set"],
                checkpoint=self._checkpoint(document["model"]),
            )
            results = [
                Result(**{name: record[name] for name in _FIELDS if name in record})
                for record in document["results"]
            ]
            _check_types(data, results)
            for result in results:
                if not 0 <= result.correct <= result.total or result.total != data.images:
                    raise ValueError(f"correct={result.correct} of total={result.total}")
            found = [self._measurement(data, result, file) for result in results]
            doubts = [_doubt(file, **doubt) for doubt in document.get("doubts") or ()]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"not a results file of tfadv.evaluate ({reason})") from None
        self.doubts += doubts
        return list(filter(None, map(self._keep, found)))

    def _measurement(self, data, result, file):
        if not result.num_steps:
            return Measurement(data, CLEAN, result, file)
        attack = (
            float(result.epsilon),
            result.targeted,
            result.loss,
            float(result.start_from_clean),
            # Of images themselves nothing is clipped; and files may be older than the choice.
            bool(result.clip_start) and result.start_from_clean < 1,
            result.restarts,
            result.precision or "float32",  # of files older than the choice
        )
        column = Column(result.num_steps, float(result.step_size))
        return Measurement(dataclasses.replace(data, attack=attack), column, result, file)

    def _keep(self, new):
        """Keeps a measurement; or says why not."""
        mixture = self.settings["norm"] == "mbn"
        if mixture != (new.result.domain is not None):
            branch = f"of a branch ({new.result.domain})" if new.result.domain else "of no branch"
            return f"{new.file}: {new.column.name} is {branch}, of norm={self.settings['norm']}"
        for old in self.measurements:
            same = (old.protocol, old.column, old.result.domain)
            if same == (new.protocol, new.column, new.result.domain):
                if old.result == new.result:
                    return None
                return (
                    f"{new.file}: {new.column.name} is in {old.file} too, with other numbers or "
                    "another seed; that one counts"
                )
        self.measurements.append(new)
        return None

    def _checkpoint(self, model):
        name = pathlib.PurePath(model).name
        epoch = re.fullmatch(r"epoch-(\d+)\.keras", name)
        if name == "model.keras" or (epoch and int(epoch[1]) == self.settings["epochs"]):
            return "final"
        if epoch:
            return f"epoch {int(epoch[1])}"
        return "best" if name == "best.keras" else name


# Of JSON's values, those that a field takes; only the ones that every result has may not be None.
_TYPES = {
    **dict.fromkeys(("dataset", "checkpoint", "domain", "loss", "step_size_rule"), str),
    **dict.fromkeys(("whole", "targeted", "clip_start"), bool),
    **dict.fromkeys(("epsilon", "step_size", "start_from_clean"), (int, float)),
    **dict.fromkeys(
        ("image_size", "images", "num_steps", "correct", "total", "hits", "regained", "restarts"),
        int,
    ),
    "seed": int,
}
_ALWAYS = ("dataset", "image_size", "images", "whole", "num_steps", "correct", "total", "seed")


def _check_types(data, results):
    """Raises `ValueError` for values of other types, which would fail or lie later on."""
    for record in (data, *results):
        for name, types in _TYPES.items():
            value = getattr(record, name, None)
            if value is None and (name not in _ALWAYS or not hasattr(record, name)):
                continue
            wrong = not isinstance(value, types) or (isinstance(value, bool) and types is not bool)
            if wrong or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"{name}={value!r}")
    for result in results:
        if result.num_steps < 0 or result.total < 1 or result.domain not in (None, "adv", "clean"):
            raise ValueError(f"{result.num_steps} steps, {result.total} images, {result.domain!r}")


def _doubt(file, check, domain, message):
    return f"{file}: {check}{f' ({domain} branch)' if domain else ''}: {message}"
