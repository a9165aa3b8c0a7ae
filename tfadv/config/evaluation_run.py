import keras

from tfadv import distributed, evaluation, models
from tfadv.config import building, errors


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
    try:
        model = keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model must be a Keras file that loads; {path}: {error}") from None
    contract = models.contract(model)
    if contract is not None and contract.channel_order == "BGR":
        raise ValueError(f"model must take RGB or gray images; the contract of {path} says BGR")
    evaluator = evaluation.Evaluator(
        model,
        building.attack(settings, max(settings.num_steps)),
        settings.num_steps,
        ("adv", "clean") if settings.domain == "both" else (settings.domain,),
        models.value_range(model, settings.value_range),
        settings.seed,
    )
    # The data come in pixels of 255, whatever a model was made for.
    if evaluator.value_range != (0.0, 255.0):
        raise ValueError(
            f"model must take images of 0 to 255; {path} takes {evaluator.value_range}"
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
        if distributed.rank() == 0:
            print(f"{self.path} on {self.dataset.name}\n{evaluation.table(results)}", flush=True)
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
            )
