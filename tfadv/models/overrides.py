"""A model's own methods that training or evaluation would pass by in silence."""

import keras


def check_training(model):
    """Raises `ValueError` for a model with a `train_step` of its own, which ours would replace.

    An own `compute_loss` or `compute_metrics` works. So do methods that train through Keras's:
    `fit`, `make_train_function`, `train_on_batch`; that they do is seen when they run.
    """
    if _is_own(model, "train_step"):
        raise ValueError(
            "AdversarialTraining makes the train_step itself and would drop that of "
            f"{type(model).__name__} {model.name!r}: put its loss into compute_loss, and what it "
            "measures into compute_metrics"
        )


# Keras's own way to say what a model is: Evaluator calls the model, not these.
_EVALUATING = (
    "test_step",
    "predict_step",
    "make_test_function",
    "make_predict_function",
    "evaluate",
    "predict",
)


def check_evaluation(model):
    """Raises `ValueError` for a model whose own evaluation may say something else than its call."""
    for name in _EVALUATING:
        if _is_own(model, name):
            raise ValueError(
                f"an evaluation calls the model and would pass by the {name} of "
                f"{type(model).__name__} {model.name!r}: put what it does to images into call, and "
                "what it measures into compute_loss or compute_metrics; or evaluate "
                "keras.Sequential([keras.Input(shape), model])"
            )


def _is_own(model, name):
    return name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
