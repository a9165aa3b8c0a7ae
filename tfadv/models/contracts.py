from tfadv.layers import InputContract


def contract(model):
    """The input contract of a model: what images it was made for.

    Args:
        model: A Keras model.

    Returns:
        Its `tfadv.layers.InputContract` (attributes `value_range` and `channel_order`), or `None`
        if it carries none.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, InputContract):
            return layer
    return None


def value_range(model, given=None):
    """The range of a model's images: as given, or as its contract says.

    Args:
        model: A Keras model.
        given: `(low, high)`, or `None` to read the contract.

    Returns:
        Two floats.

    Raises:
        ValueError: If there is neither, or the two disagree.
    """
    found = contract(model)
    if found is None and given is None:
        raise ValueError(
            f"value_range must be given, as model {model.name!r} carries no input contract; "
            "(0, 255) for pixels, (-1, 1) or (0, 1) for scaled ones"
        )
    if found is None or given is None:
        low, high = given or found.value_range
        return float(low), float(high)
    if tuple(map(float, given)) != tuple(found.value_range):
        raise ValueError(
            f"value_range must be {found.value_range}, which the input contract of model "
            f"{model.name!r} states; received {tuple(given)}"
        )
    return found.value_range


def check_classifier(model):
    """Raises `ValueError` for a model that has not one input of images and one output of classes.

    Args:
        model: A Keras model; a subclassed one, which does not say what it has, passes.
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
