"""From each program's command line to its checked settings, without TensorFlow."""

import contextlib
import os
import pathlib
import re

from tfadv import launcher
from tfadv.arguments import warn_of_fractions
from tfadv.programs import flags, rules
from tfadv.programs.run_directory import RunDirectory, check_directory, check_file
from tfadv.programs.settings import EVALUATE, INSPECT, PLAN, PREDICT, REPORT, TRAIN, Role, names
from tfadv.programs.settings import default as default_of
from tfadv.tables import attacks, datasets


def train(arguments):
    """Settings of `tfadv.train`, checked, and the directory of its run."""
    settings = flags.parse(
        TRAIN,
        arguments,
        description="Trains an image classifier adversarially. The defaults are the paper's.",
    )
    rules.check_train(settings)
    if _warns():
        rules.warn_of_large_batch(settings)
        warn_of_fractions(settings.epsilon, settings.step_size)
    run = RunDirectory(settings.run_dir or default_run_dir(settings))
    if settings.init_from:
        # As it is written to the run's flags, which are read from other directories too.
        settings.init_from = str(pathlib.Path(os.path.expanduser(settings.init_from)).resolve())
        if settings.init_from == str(run.path.resolve()):
            raise ValueError(f"init_from must be another run than run_dir; received {run.path}")
        # Rank 0 alone will read it, and only where no checkpoint wins over it.
        if launcher.rank() == 0 and not (settings.resume and run.saved()):
            initial_model(settings)
    run.check(settings)
    return settings, run


def evaluate(arguments):
    """Settings of `tfadv.evaluate`, checked, and the file of the model it evaluates."""
    settings = flags.parse(
        EVALUATE,
        arguments,
        description="Measures clean and robust accuracy of a trained classifier.",
    )
    rules.check_evaluate(settings)
    path, run = model_file(settings)
    if run is not None:
        of_the_run(settings, run, "dataset", "data_dir", "image_size", "epsilon")
        if settings.output is None:
            settings.output = str(run.evaluation)
    elif settings.epsilon is None:
        settings.epsilon = default_of(TRAIN, "epsilon")
    if _warns():
        warn_of_fractions(settings.epsilon, settings.step_size)
    if settings.output:
        check_file(settings.output)
    datasets.check(settings.dataset, settings.data_dir, settings.image_size)
    return settings, path


def inspect(arguments):
    """Settings of `tfadv.inspect`, checked; the file of the model; and its run, or None.

    In the settings, `trained` are those of a training: the run's, or with `--model` the paper's,
    with what the flags say of mini-batches.
    """
    settings = flags.parse(
        INSPECT,
        arguments,
        description="Looks into the normalization layers of a trained classifier (Figures 5 and "
        "6). Flags of training that are not given are the run's, or with --model the paper's.",
    )
    rules.check_inspect(settings)
    path, run = model_file(settings)
    settings.trained = flags.parse(TRAIN, []) if run is None else run.settings()
    for name in names(TRAIN, Role.MINI_BATCH):
        if getattr(settings, name) is not None:
            setattr(settings.trained, name, getattr(settings, name))
    if settings.output:
        check_directory("output", settings.output)
    settings.figure6 &= run is not None or settings.dataset is not None
    if settings.figure6:
        trained = settings.trained
        try:
            datasets.check(trained.dataset, trained.data_dir, trained.image_size)
        except ValueError as error:
            raise ValueError(f"{error}; or leave Figure 6 out with --figure6=false") from None
    return settings, path, run


def predict(arguments):
    """Settings of `tfadv.predict`, checked, and the file of the model it uses."""
    settings = flags.parse(
        PREDICT,
        arguments,
        positional="directory",
        description="Classifies the images of a directory, one line file,label for each.",
    )
    rules.check_predict(settings)
    [settings.directory] = settings.directory
    path, run = model_file(settings)
    if run is not None:
        of_the_run(settings, run, "dataset", "data_dir")
    if settings.output:
        check_file(settings.output)
    if settings.class_names:
        datasets.check(settings.dataset, settings.data_dir)
    return settings, path


def plan(arguments):
    """Settings of `tfadv.plan`, checked: those of a training, and what it shall run on."""
    description = "Says how long a training takes on N devices of a kind, before it is started."
    settings = flags.parse(PLAN, arguments, description=description)
    # In a flagfile it says where a training shall write, which a plan does not.
    run_dir = flags.given_directly(PLAN, arguments, "run_dir")
    if run_dir:
        run = RunDirectory(run_dir)
        run.settings()  # an error unless it holds a run
        arguments = [f"--flagfile={run.flags.resolve()}", *arguments]
        settings = flags.parse(PLAN, arguments, description=description)
    rules.check_plan(settings)
    rules.warn_of_large_batch(settings)
    return settings


def report(arguments):
    """Settings of `tfadv.report`, checked."""
    settings = flags.parse(
        REPORT,
        arguments,
        positional="directories",
        description="Makes the paper's tables and figures from the directories of finished runs.",
    )
    check_directory("output", settings.output)
    return settings


def _warns():
    """Whether this process is the one of a launch that warns: rank 0 of the workers."""
    return launcher.rank() == 0 and not launcher.precedes_workers()


def model_file(settings):
    """The file that `--model`, or `--run_dir` and `--checkpoint`, name; and the run's directory.

    Returns:
        A path, and a `RunDirectory`, or None with `--model`.

    Raises:
        ValueError: If there is no such file.
    """
    if settings.run_dir:
        run = RunDirectory(settings.run_dir)
        return run.checkpoint(settings.checkpoint), run
    if not pathlib.Path(settings.model).is_file():
        raise ValueError(f"model must be a .keras file; received {settings.model}")
    return settings.model, None


def initial_model(settings):
    """The `.keras` file that `--init_from`, a file or the directory of a run, names."""
    path = pathlib.Path(settings.init_from)
    if path.suffix == ".keras" and path.is_file():
        return path
    with contextlib.suppress(ValueError):
        return RunDirectory(path).checkpoint("last")
    raise ValueError(
        f"init_from must be a run with a checkpoint, or a .keras file; received {path}"
    )


def of_the_run(settings, run, *wanted):
    """Gives settings that were not given the values that the run was trained with."""
    trained = run.settings()
    for name in wanted:
        if getattr(settings, name) is None:
            setattr(settings, name, getattr(trained, name))


def default_run_dir(settings):
    """A name that says what a run is: `runs/imagenet2012-resnet152-mbn-pgd30`."""
    parts = [settings.dataset, f"{settings.network}{settings.depth}", settings.norm]
    attack = attacks.key(settings.attack, settings.num_steps)
    parts.append(attack if settings.adversarial else "clean")
    for name, usual in (("clean_ratio", 1.0), ("pairing_weight", 0.0), ("running_statistics", 0)):
        value = getattr(settings, name)
        if value != usual:
            parts.append(f"{name}{value:g}")
    if settings.optimizer != "sgd":
        parts.append(settings.optimizer)
    if settings.init_from:
        parts.append(f"{settings.trainable}-from-{pathlib.Path(settings.init_from).stem}")
    return "runs/" + re.sub(r"[^\w.-]+", "-", "-".join(parts))
