"""What a model says about itself: its range of images, its inputs and outputs, its own methods."""

from collections.abc import Sequence

import keras

from tfadv import keras_internals
from tfadv.layers import InputContract


def contract(model: keras.Model) -> InputContract | None:
    """Returns the input contract of a model: which images it was made for.

    Args:
        model: A Keras model.

    Returns:
        Its `tfadv.layers.InputContract` (attributes `value_range` and `channel_order`), or `None`
        if it carries none.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8)
    low, high = tfadv.models.contract(model).value_range
    ```
    """
    layers = keras_internals.flatten_layers(model)
    return next((layer for layer in layers if isinstance(layer, InputContract)), None)


def value_range(model: keras.Model, given: Sequence[float] | None = None) -> tuple[float, float]:
    """Returns the range of a model's images: the given one, or that of its input contract.

    Args:
        model: A Keras model.
        given: `(low, high)`, or `None` to read the contract.

    Raises:
        ValueError: If there is neither, or the two disagree.
    """
    stated = contract(model)
    if given is None:
        if stated is None:
            raise ValueError(
                f"value_range must be given, as model {model.name!r} carries no input contract; "
                "(0, 255) for pixels, (-1, 1) or (0, 1) for scaled ones"
            )
        return stated.value_range
    low, high = map(float, given)
    if stated is not None and (low, high) != tuple(stated.value_range):
        raise ValueError(
            f"value_range must be {stated.value_range}, which the input contract of model "
            f"{model.name!r} states; received {tuple(given)}"
        )
    return low, high


def check_classifier(model: keras.Model) -> None:
    """Checks that a model has one input of images and one output of classes.

    Args:
        model: A Keras model; a subclassed one, which does not declare them, passes.

    Raises:
        ValueError: If it has several.
    """
    for name in ("inputs", "outputs"):
        tensors = getattr(model, name, None)
        if tensors is not None and len(tensors) != 1:
            structure = getattr(model, name[:-1], None)
            names = structure if isinstance(structure, dict) else [each.name for each in tensors]
            raise ValueError(
                f"model must have one input of images and one output of classes; {model.name!r} "
                f"has {len(tensors)} {name}: {', '.join(map(repr, names))}"
            )


def check_training(model: keras.Model) -> None:
    """Checks that a model has no `train_step` of its own, which ours would replace.

    Its own `compute_loss` or `compute_metrics` works. So do its own `fit`, `make_train_function`
    and `train_on_batch`, if they train through Keras's, which shows when they run.

    Raises:
        ValueError: If it has one.
    """
    if _has_own(model, "train_step"):
        raise ValueError(
            "AdversarialTraining makes the train_step itself and would drop that of "
            f"{type(model).__name__} {model.name!r}: put its loss into compute_loss, and what it "
            "measures into compute_metrics"
        )


# With these a model can say something else than its call, and an evaluation uses the call.
_EVALUATING = (
    "test_step",
    "predict_step",
    "make_test_function",
    "make_predict_function",
    "evaluate",
    "predict",
)


def check_evaluation(model: keras.Model) -> None:
    """Checks that a model has no method of its own that an evaluation would bypass.

    Raises:
        ValueError: If it has one.
    """
    for name in _EVALUATING:
        if _has_own(model, name):
            raise ValueError(
                f"an evaluation calls the model and would bypass the {name} of "
                f"{type(model).__name__} {model.name!r}: put what it does to images into call, and "
                "what it measures into compute_loss or compute_metrics; or evaluate "
                "keras.Sequential([keras.Input(shape), model])"
            )


def _has_own(model, name):
    return name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
