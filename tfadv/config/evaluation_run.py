import dataclasses

import tensorflow as tf

from tfadv import distributed, evaluation
from tfadv.config import building, errors, loading
from tfadv.config.run_directory import RunDirectory


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
    model = loading.classifier(path, settings.value_range, compile=True)
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
        if settings.run_dir:
            _tensorboard(
                RunDirectory(settings.run_dir).tensorboard, results, self.evaluator.model.optimizer
            )
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


def _tensorboard(directory, results, optimizer):
    """Writes results beside the training's scalars, at the step of the model; on rank 0."""
    if distributed.rank() != 0:
        return
    step = int(optimizer.iterations) if optimizer is not None else 0
    for domain in dict.fromkeys(result.domain for result in results):
        # The clean branch is a run of its own, so that both branches share a chart.
        run = directory / "evaluation" / ("clean" if domain == "clean" else "")
        writer = tf.summary.create_file_writer(str(run))
        with writer.as_default(step):
            for result in results:
                if result.domain == domain:
                    name = f"pgd{result.num_steps}" if result.num_steps else "clean"
                    tf.summary.scalar(f"accuracy/{name}", result.accuracy)
                    if result.success is not None:
                        tf.summary.scalar(f"success/{name}", result.success)
        writer.close()
