"""Classifiers from files, for the programs that use one."""

from tfadv import models


def classifier(path, value_range=None, compile=False):
    """Loads a classifier of RGB or gray images from 0 to 255, as the data sets give them.

    Args:
        path: Of a `.keras` file.
        value_range: `(low, high)` that the user says its images have; None reads its contract.
        compile: Whether to load its optimizer and loss as well, where it has them.

    Returns:
        A Keras model.

    Raises:
        ValueError: If it does not load, or takes other images.
    """
    model = models.load(path, compile)
    models.check_classifier(model)
    contract = models.contract(model)
    if contract is not None and contract.channel_order == "BGR":
        raise ValueError(f"model must take RGB or gray images; the contract of {path} says BGR")
    found = models.value_range(model, value_range)
    if found != (0.0, 255.0):
        raise ValueError(f"model must take images of 0 to 255; {path} takes {found}")
    return model
