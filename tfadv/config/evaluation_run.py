import dataclasses

from tfadv import distributed, evaluation
from tfadv.config import building, errors, loading


def prepare(settings, path):
    """Everything of an evaluation up to its first image, where all mistakes of the user's show.

    Args:
        settings: Namespace, of `tfadv.config.evaluate`.
        path: Of a `.keras` file.

    Returns:
        An `EvaluationRun`.
    """
    distributed.init()
    dataset = building.dataset(settings)
    model = loading.classifier(path, settings.value_range)
    attack = building.attack(settings, max(settings.num_steps)) if settings.num_steps else None
    evaluator = evaluation.Evaluator(
        model,
        attack,
        settings.num_steps or None,
        ("adv", "clean") if settings.domain == "both" else (settings.domain,),
        settings.value_range,
        settings.seed,
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
        """Evaluates, prints the table and writes the results."""
        settings = self.settings
        with errors.input_errors("evaluate"):
            results = self.evaluator(
                self.dataset,
                settings.images_per_worker,
                settings.limit,
                evaluation.progress_bar(),
            )
            doubts = None
            if settings.sanity_checks:
                doubts = evaluation.doubts(
                    self.evaluator,
                    results,
                    self.dataset,
                    settings.images_per_worker,
                    settings.limit,
                )
        if distributed.rank() == 0:
            print(f"{self.path} on {self.dataset.name}\n{evaluation.table(results)}", flush=True)
            for doubt in doubts or ():
                print(f"warning: {doubt}", flush=True)
            if settings.output:
                print(f"written to {settings.output}", flush=True)
        if settings.output:
            evaluation.write_json(
                settings.output,
                results,
                model=str(self.path),
                dataset=self.dataset.name,
                image_shape=self.dataset.image_shape,
                whole_validation_set=results[0].total == self.dataset.num_validation,
                # None: not checked; an empty list: checked, and none.
                doubts=None if doubts is None else [dataclasses.asdict(d) for d in doubts],
            )
