import dataclasses
import hashlib
import os
import pathlib

from tfadv import distributed, evaluation, watchdog
from tfadv.programs import building, exits, loading
from tfadv.programs.run_directory import RunDirectory


def prepare(settings, path):
    """Everything of an evaluation up to its first image, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `command_lines.evaluate`.
        path: Of a `.keras` file.

    Returns:
        An `EvaluationRun`.
    """
    distributed.init()
    dataset = building.dataset(settings)
    model = loading.classifier(path, settings.value_range, bool(settings.run_dir))
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


class EvaluationRun:
    """A run of `tfadv.evaluate`, ready to start."""

    def __init__(self, settings, path, dataset, evaluator):
        self.settings = settings
        self.path = path
        self.dataset = dataset
        self.evaluator = evaluator

    def run(self):
        """Evaluates, prints the table, doubts what it says, and writes the results."""
        settings = self.settings
        given = self.dataset, settings.images_per_worker, settings.limit
        watch = watchdog.watch(settings.stall_seconds, f"{self.path}.stalled", "evaluate")
        with exits.input_errors("evaluate"), watch:
            journal = self._journal()
            results = self.evaluator(*given, evaluation.progress_bar(), journal)
            _say(f"{self.path} on {self.dataset.name}\n{evaluation.table(results)}")
            self._keep_previous()
            self._write(results)  # hours of work, which no failing check shall take along
            if journal is not None:
                journal.remove()
            if settings.run_dir:
                evaluation.write_scalars(
                    RunDirectory(settings.run_dir).tensorboard / "evaluation",
                    results,
                    int(self.evaluator.model.optimizer.iterations),
                )
            if settings.sanity_checks and self.evaluator.attack is not None:
                doubts = evaluation.doubts(self.evaluator, results, *given)
                for doubt in doubts:
                    _say(f"warning: {doubt}")
                if not doubts:
                    along = self.evaluator.attack.advances
                    _say("sanity checks: no doubts" + ("" if along else " of the results alone"))
                self._write(results, doubts=[dataclasses.asdict(doubt) for doubt in doubts])
        if settings.output:
            _say(f"written to {settings.output}")

    def _journal(self):
        """Where an evaluation that was killed goes on; beside its results, if there are any."""
        if not self.settings.output:
            return None
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        identity = {
            "model": digest,
            "dataset": self.dataset.name,
            "image_shape": list(self.dataset.image_shape),
            "images": self.dataset.num_validation,
            # As many images of the same name may be others elsewhere.
            "data_dir": os.path.realpath(self.settings.data_dir or ""),
            **self.evaluator.identity,
        }
        return evaluation.Journal(f"{self.settings.output}.partial", identity)

    def _keep_previous(self):
        """Gives the results of an earlier evaluation, hours of work too, another name."""
        output = pathlib.Path(self.settings.output or "")
        if distributed.rank() == 0 and output.is_file():
            previous = output.with_suffix(f".previous{output.suffix}")
            output.replace(previous)
            _say(f"the results before these are now {previous}")

    def _write(self, results, **details):
        if self.settings.output:
            evaluation.write_json(
                self.settings.output,
                results,
                model=str(self.path),
                dataset=self.dataset.name,
                image_shape=self.dataset.image_shape,
                whole_validation_set=results[0].total == self.dataset.num_validation,
                attack=self.evaluator.attack_config,
                **details,
            )


def _say(text):
    if distributed.rank() == 0:
        print(text, flush=True)
