"""From a command line to the objects of a run.

`train` and `evaluate` parse and check flags without TensorFlow; `building` makes objects of them.
"""

import pathlib
import re

from tfadv.config import checks, flag_table, parsing
from tfadv.config.run_directory import RunDirectory
from tfadv.data import catalog


def train(arguments):
    """Settings of `tfadv.train`, checked, and the directory of its run."""
    settings = parsing.parse(
        "tfadv.train",
        "Trains an image classifier adversarially. The defaults are the paper's.",
        flag_table.TRAIN,
        arguments,
    )
    checks.check_train(settings)
    run = RunDirectory(settings.run_dir or default_run_dir(settings))
    run.check(flag_table.TRAIN, settings)
    return settings, run


def evaluate(arguments):
    """Settings of `tfadv.evaluate`, checked, and the file of the model it evaluates."""
    settings = parsing.parse(
        "tfadv.evaluate",
        "Measures clean and robust accuracy of a trained classifier.",
        flag_table.EVALUATE,
        arguments,
    )
    checks.check_evaluate(settings)
    if settings.run_dir:
        run = RunDirectory(settings.run_dir)
        trained = run.settings(flag_table.TRAIN)
        for name in ("dataset", "data_dir", "image_size", "epsilon"):
            if getattr(settings, name) is None:
                setattr(settings, name, getattr(trained, name))
        if settings.output is None:
            settings.output = str(run.evaluation)
        path = run.checkpoint(settings.checkpoint)
    else:
        path = settings.model
        if settings.epsilon is None:
            settings.epsilon = flag_table.ATTACK[0].default
        if not pathlib.Path(path).is_file():
            raise ValueError(f"model must be a .keras file; received {path}")
    catalog.check(settings.dataset, settings.data_dir, settings.image_size)
    return settings, path


def default_run_dir(settings):
    """A name that says what a run is: `runs/imagenet2012-resnet152-mbn-pgd30`."""
    parts = [settings.dataset, f"{settings.network}{settings.depth}", settings.norm]
    parts.append(f"pgd{settings.num_steps}" if settings.adversarial else "clean")
    for name, usual in (("clean_ratio", 1.0), ("pairing_weight", 0.0), ("running_statistics", 0)):
        value = getattr(settings, name)
        if value != usual:
            parts.append(f"{name}{value:g}")
    return "runs/" + re.sub(r"[^\w.-]+", "-", "-".join(parts))
