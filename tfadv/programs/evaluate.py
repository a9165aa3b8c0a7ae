"""`tfadv.evaluate`, from its command line to its last line."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfadv import launcher, whole_files
from tfadv.programs import exits, flags, rules
from tfadv.programs.run_directory import RunDirectory, check_file, model_file
from tfadv.settings import EVALUATE, TRAIN, default
from tfadv.tables import datasets
from tfadv.tables.attacks import ATTACKS


def parse(arguments: list[str]) -> tuple[SimpleNamespace, Path]:
    """Parses and checks the command line, without TensorFlow.

    Returns:
        The settings, and the file of the model.
    """
    settings = flags.parse(
        EVALUATE,
        arguments,
        description="Measures clean and robust accuracy of a trained classifier.",
    )
    rules.check_model(settings)
    if settings.model and not settings.dataset:
        raise ValueError("dataset must be given with model; received none")
    has_epsilon = settings.epsilon is not None
    path, run = model_file(settings)
    if run is not None:
        settings.output = settings.output or str(run.evaluation)
    trained = run.settings() if run is not None else flags.parse(TRAIN, [])
    settings.attack_norm = settings.attack_norm or trained.attack_norm
    if not has_epsilon:
        if settings.attack_norm != trained.attack_norm:
            raise ValueError(
                f"epsilon must be given with attack_norm={settings.attack_norm}; received none"
            )
        settings.epsilon = trained.epsilon
    if settings.num_steps == default(EVALUATE, "num_steps"):
        settings.num_steps = ATTACKS[settings.attack].eval_steps or settings.num_steps
    rules.warn_of_lengths(settings)
    _check_images(settings)
    if settings.output:
        check_file(settings.output)
    datasets.check(settings.dataset, settings.data_dir, settings.image_size)
    return settings, path


def _check_images(settings):
    """Raises `ValueError` unless the settings of ImageNet's validation images fit the others."""
    for name in ("image_names", "validation_resize"):
        value = getattr(settings, name)
        if value != default(EVALUATE, name) and settings.dataset != "imagenet2012":
            raise ValueError(
                f"{name} needs dataset=imagenet2012; received dataset={settings.dataset}"
            )
    if settings.image_names and not os.path.isfile(settings.image_names):
        raise ValueError(f"image_names must be a file; received {settings.image_names}")


def prepare(settings: SimpleNamespace, path: Path) -> "EvaluationRun":
    """Loads the data and the model, and checks that they fit each other."""
    from tfadv import distributed, evaluation
    from tfadv.programs import building

    distributed.init()
    dataset = building.dataset(settings)
    model = building.classifier(path, settings.value_range, bool(settings.run_dir))
    attack = building.attack(settings, max(settings.num_steps)) if settings.num_steps else None
    evaluator = evaluation.Evaluator(
        model,
        attack,
        building.evaluation_steps(settings, settings.num_steps) if attack else None,
        ("adv", "clean") if settings.domain == "both" else (settings.domain,),
        settings.value_range,
        settings.seed,
        settings.attack_precision,
    )
    evaluator.open(dataset, settings.images_per_worker, settings.limit)
    return EvaluationRun(settings, path, dataset, evaluator)


@dataclasses.dataclass
class EvaluationRun:
    """An evaluation that is ready to start."""

    settings: SimpleNamespace
    path: Path
    dataset: Any
    evaluator: Any

    def run(self) -> None:
        """Evaluates, prints the table, writes the results, and checks them."""
        from tfadv import evaluation, watchdog

        settings, output = self.settings, self.settings.output
        digest = whole_files.sha256(self.path)
        self._data = {
            "model_sha256": digest,
            "dataset": self.dataset.name,
            "image_shape": list(self.dataset.image_shape),
            **self._images(),
        }
        source = self.dataset, settings.images_per_worker, settings.limit

        def write(**details):
            if output:
                evaluation.write_json(
                    output,
                    results,
                    correct_images,
                    model=str(self.path),
                    **self._data,
                    whole_validation_set=whole,
                    attack=self.evaluator.attack_config,
                    **details,
                )

        watch = watchdog.watch(settings.stall_seconds, f"{self.path}.stalled", "evaluate")
        with exits.input_errors("evaluate"), watch:
            # An evaluation that is killed continues from its journal.
            journal = None
            if output:
                journal = evaluation.Journal(f"{output}.partial", self._identity(digest))
            results = self.evaluator(*source, evaluation.progress_bar(), journal)
            correct_images = self.evaluator.correct_images()
            whole = results[0].total == self.dataset.num_validation and not settings.image_names
            _say(f"{self.path} on {self.dataset.name}\n{evaluation.table(results)}")
            if output and launcher.rank() == 0:
                _keep_previous(Path(output))
            write()  # before the checks, so that a check that fails does not lose hours of work
            if journal is not None:
                journal.remove()
            if settings.run_dir:
                evaluation.write_scalars(
                    RunDirectory(settings.run_dir).tensorboard / "evaluation",
                    results,
                    int(self.evaluator.model.optimizer.iterations),
                )
            doubts: list = []
            if settings.sanity_checks and self.evaluator.attack is not None:
                doubts = evaluation.doubts(self.evaluator, results, *source, others=self._earlier())
                for doubt in doubts:
                    _say(f"warning: {doubt}")
                if not doubts:
                    _say("sanity checks: no doubts")
                write(doubts=[dataclasses.asdict(doubt) for doubt in doubts])
        if output:
            _say(f"written to {output}")
        if output and settings.image_names and results[-1].remaining and launcher.rank() == 0:
            claim = Path(output).with_suffix(".robustbench.json")
            whole_files.write_text(claim, json.dumps(model_claim(results, doubts), indent=2) + "\n")
            _say(f"what RobustBench asks of a model claim is in {claim}; fill in what is empty")

    def _earlier(self):
        """The other evaluations of the same model on the same images, in the same directory."""
        from tfadv import distributed, evaluation

        earlier = []
        if self.settings.output and launcher.rank() == 0:
            output = Path(self.settings.output)
            for path in sorted(output.parent.glob("*.json")):
                with contextlib.suppress(OSError, ValueError):
                    results, correct_images, details = evaluation.read_json(path)
                    names = {*self._data, "image_names", "validation_resize"}
                    same = all(details.get(name) == self._data.get(name) for name in names)
                    if same and correct_images is not None and path != output:
                        earlier.append((results, correct_images))
        return distributed.broadcast_object(earlier)

    def _identity(self, digest):
        return {
            "model": digest,
            "dataset": self.dataset.name,
            "image_shape": list(self.dataset.image_shape),
            "images": self.dataset.num_validation,
            # A data set of the same name and size in another directory may hold other images.
            "data_dir": os.path.realpath(self.settings.data_dir or ""),
            **self._images(),
            **self.evaluator.identity,
        }

    def _images(self):
        """The identity of the validation images, where they are not all, as the pipeline's."""
        identity = {}
        if self.settings.image_names:
            from tfadv.programs import building

            names = "\n".join(building.image_names(self.settings.image_names))
            identity["image_names"] = hashlib.sha256(names.encode()).hexdigest()
        if self.settings.validation_resize != default(EVALUATE, "validation_resize"):
            identity["validation_resize"] = self.settings.validation_resize
        return identity


def model_claim(results: list, doubts: list) -> dict[str, Any]:
    """What RobustBench's `model_info` files say of a model, as far as an evaluation knows it.

    Args:
        results: Results of AutoAttack; of several branches, the first counts.
        doubts: The doubts about them.

    Returns:
        A dictionary of plain values; accuracies are in percent, as strings with two decimals. What
        only the authors know is empty.
    """
    domain = results[0].domain
    clean, attacked = (result for result in results if result.domain == domain)
    eps = f"{attacked.epsilon:g}" + ("" if attacked.norm == "l2" else "/255")
    accuracy = f"{100 * attacked.accuracy:.2f}"
    return {
        **dict.fromkeys(("link", "name", "authors"), ""),
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": "imagenet",
        **dict.fromkeys(("venue", "architecture"), ""),
        "eps": eps,
        "clean_acc": f"{100 * clean.accuracy:.2f}",
        "reported": accuracy,
        "autoattack_acc": accuracy,
        "unreliable": bool(doubts),
    }


def _keep_previous(output):
    """Renames the results of an earlier evaluation, which took hours of work too."""
    if output.is_file():
        previous = output.with_suffix(f".previous{output.suffix}")
        output.replace(previous)
        _say(f"the results before these are now {previous}")


def _say(text):
    if launcher.rank() == 0:
        print(text, flush=True)
