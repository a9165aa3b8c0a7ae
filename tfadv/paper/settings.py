"""What a run was trained with, in the terms of the paper's tables."""

from collections.abc import Iterable, Mapping

from tfadv.steps import steps_per_epoch
from tfadv.tables import attacks, datasets, networks

# The settings that the name of a training strategy states.
STRATEGY = (
    "norm affine adversarial clean_ratio clean_weight pairing_weight running_statistics"
).split()
# The settings that a whole table or figure varies: Figure 7, Table 6, Tables 4 and 5.
AXES = "depth blocks batch_size num_steps step_size".split()
# The other settings of the attack in training. A run on clean images alone has none of them.
ATTACK = (
    "attack epsilon targeted attack_loss restarts start_from_clean clip_start attack_precision"
).split()
# The settings that Table 3 varies.
RECIPE = (
    "start_from_clean epochs images_per_worker optimizer momentum rmsprop_rho rmsprop_epsilon "
    "learning_rate warmup_epochs decay decay_epochs decay_rate decay_every"
).split()

_ALP_WEIGHT = 0.5  # the weight of logit pairing in `flags/` (pipeline)


def trained(settings: Mapping, free: Iterable[str]) -> dict:
    """Settings in canonical form: runs that train the same thing have equal ones.

    A setting that is left to a default gets its value, one that has no effect becomes None, and
    the step size of the attack is the one that its rule gives. An attack without steps has one, of
    size 0.

    Args:
        settings: The flags of `tfadv.train`.
        free: Names of the flags that do not change what is trained.

    Returns:
        A new dictionary without the free settings.

    Raises:
        ValueError: If there is no such data set or network.
    """
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
        run["clean_weight"] = None  # the share of the clean images, which is the default
    run["step_size"] = attacks.effective_step_size(
        run.pop("step_size_rule"), run["step_size"], run["epsilon"], run["num_steps"]
    )
    if not attacks.ATTACKS[run["attack"]].has_steps:
        run["num_steps"], run["step_size"] = 1, 0.0
    for used, names in (
        (run["adversarial"], [*ATTACK, "num_steps", "step_size"]),
        (run["adversarial"] and run["start_from_clean"] < 1, ["clip_start"]),
        (run["adversarial"], ["clean_ratio", "clean_weight", "pairing_weight"]),
        (run["norm"] == "mbn", ["affine"]),
        (run["optimizer"] == "rmsprop", ["rmsprop_rho", "rmsprop_epsilon"]),
        (run["decay"] == "step", ["decay_epochs"]),
        (run["decay"] == "exponential", ["decay_rate", "decay_every"]),
    ):
        if not used:
            run.update(dict.fromkeys(names))
    return run


def strategy(run: Mapping, domain: str | None = None, last_epochs: int = 10) -> str:
    """The name of a training strategy as the paper writes it.

    Args:
        run: Settings in canonical form.
        domain: `"adv"` or `"clean"`, the branch of a mixture that was evaluated.
        last_epochs: The number of epochs on running statistics that a plain `*` stands for.

    Returns:
        A string such as `"MBN_adv, 100% adv + 100% clean, ALP*"`.
    """
    norm = run["norm"].upper()
    parts = {"BN": [], "MBN": [f"MBN_{domain}" if domain else "MBN"]}.get(norm, [norm])
    if run["affine"] == "shared":
        parts.append("shared affine")
    if run["adversarial"]:
        parts.append(f"100% adv + {100 * run['clean_ratio']:g}% clean")
    else:
        parts.append("0% adv + 100% clean")
    if run["clean_weight"] is not None:
        parts.append(f"alpha {run['clean_weight']:g}")
    if weight := run["pairing_weight"]:
        parts.append("ALP" if weight == _ALP_WEIGHT else f"ALP of weight {weight:g}")
    last = run["running_statistics"]
    star = "*" if last else ""
    return ", ".join(parts) + star + (f" (last {last})" if last not in (0, last_epochs) else "")


def network(run: Mapping) -> str:
    """The name of a network, such as `"ResNet-152"`, with its blocks if they are not the usual."""
    function = networks.NETWORKS[run["network"]].function
    name = f"{function.rpartition(':')[2]}-{run['depth']}"
    try:
        usual = networks.check(run["network"], run["depth"], run["image_size"])
    except ValueError:
        usual = None
    return name if run["blocks"] == usual else f"{name} ({'-'.join(map(str, run['blocks']))})"
