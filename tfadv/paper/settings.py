"""The settings of a run in the terms of the paper's tables."""

import re
from collections.abc import Mapping
from pathlib import Path

from tfadv.settings import TRAIN, Role, names
from tfadv.steps import steps_per_epoch
from tfadv.tables import attacks, datasets, networks

_ALP_WEIGHT = 0.5  # the weight of logit pairing in `flags/` (pipeline)


def trained(settings: Mapping) -> dict:
    """The canonical settings of a training: runs that train the same thing have equal ones.

    Settings that do not change what is trained are left out, and so is the seed, which makes
    another run of the same row. A setting that is None gets the value that it stands for, one
    without effect becomes None, and the step size of the attack is the one that its rule gives. An
    attack without steps has one, of size 0.

    Args:
        settings: The settings of `tfadv.train`, by name.

    Raises:
        ValueError: If there is no such data set or network.
    """
    free = {*names(TRAIN, Role.FREE), "seed"}
    run = {name: value for name, value in settings.items() if name not in free}
    entry = datasets.ENTRIES.get(run["dataset"])
    if entry is None:
        raise ValueError(f"dataset must be one of {', '.join(datasets.ENTRIES)}")
    run["image_size"] = run["image_size"] or entry.image_size
    run["blocks"] = networks.check(run["network"], run["depth"], run["image_size"], run["blocks"])
    if entry.num_train and run["steps_per_epoch"] == steps_per_epoch(
        entry.num_train, run["batch_size"]
    ):
        run["steps_per_epoch"] = None
    if run["clean_weight"] == run["clean_ratio"] / (1 + run["clean_ratio"]):
        run["clean_weight"] = None  # the default is the share of the clean images
    if run["init_from"]:
        # Networks that differ in their seed alone begin runs of one row.
        run["init_from"] = re.sub(r"\bseed\d+\b", "seed*", run["init_from"])
    run["step_size"] = attacks.effective_step_size(
        run.pop("step_size_rule"), run["step_size"], run["epsilon"], run["num_steps"]
    )
    if not attacks.ATTACKS[run["attack"]].has_steps:
        run["num_steps"], run["step_size"] = 1, 0.0
    for used, settings_of_it in (
        (run["adversarial"], [*names(TRAIN, Role.ATTACK), "num_steps", "step_size"]),
        (run["adversarial"] and run["start_from_clean"] < 1, ["clip_start"]),
        (run["adversarial"], ["clean_ratio", "clean_weight", "pairing_weight"]),
        (run["norm"] == "mbn", ["affine", "statistics"]),
        (_is_mixed(run), ["batch_statistics"]),
        (run["optimizer"] == "rmsprop", ["rmsprop_rho", "rmsprop_epsilon"]),
        (run["decay"] == "step", ["decay_epochs"]),
        (run["decay"] == "exponential", ["decay_rate", "decay_every"]),
    ):
        if not used:
            run.update(dict.fromkeys(settings_of_it))
    return run


def _is_mixed(run):
    """Whether one set of statistics serves the adversarial and the clean images of a batch."""
    one_set = run["norm"] == "bn" or (run["norm"] == "mbn" and run["statistics"] == "shared")
    return one_set and run["adversarial"] and run["clean_ratio"]


def strategy(run: Mapping, domain: str | None = None, last_epochs: int = 10) -> str:
    """The name of a training strategy as the paper writes it.

    Args:
        run: The canonical settings.
        domain: `"adv"` or `"clean"`, the branch of a mixture that was evaluated.
        last_epochs: The number of epochs on running statistics that a plain `*` stands for.

    Returns:
        A string such as `"MBN_adv, 100% adv + 100% clean, ALP*"`.
    """
    norm = run["norm"].upper()
    parts = {"BN": [], "MBN": [f"MBN_{domain}" if domain else "MBN"]}.get(norm, [norm])
    for name in ("affine", "statistics"):
        if run[name] == "shared":
            parts.append(f"shared {name}")
    if run["adversarial"]:
        parts.append(f"100% adv + {100 * run['clean_ratio']:g}% clean")
    else:
        parts.append("0% adv + 100% clean")
    if run["batch_statistics"] == "apart":
        parts.append("apart")
    if run["clean_weight"] is not None:
        parts.append(f"alpha {run['clean_weight']:g}")
    if weight := run["pairing_weight"]:
        parts.append("ALP" if weight == _ALP_WEIGHT else f"ALP of weight {weight:g}")
    if run["init_from"]:
        what = "normalization" if run["trainable"] == "norm" else "all weights"
        parts.append(f"{what} fine-tuned from {'/'.join(Path(run['init_from']).parts[-2:])}")
    last = run["running_statistics"]
    star = "*" if last else ""
    return ", ".join(parts) + star + (f" (last {last})" if last not in (0, last_epochs) else "")


def network(run: Mapping) -> str:
    """The name of a network, such as `"ResNet-152"`, with its blocks if they are unusual."""
    function = networks.NETWORKS[run["network"]].function
    name = f"{function.rpartition(':')[2]}-{run['depth']}"
    try:
        usual = networks.check(run["network"], run["depth"], run["image_size"])
    except ValueError:
        usual = None
    return name if run["blocks"] == usual else f"{name} ({'-'.join(map(str, run['blocks']))})"
