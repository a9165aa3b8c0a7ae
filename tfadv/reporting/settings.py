"""What a run was trained with, in the terms of the paper's tables."""

from tfadv.data import catalog
from tfadv.data.steps import steps_per_epoch
from tfadv.models import architectures

# What the name of a training strategy says; tables compare runs that differ in it.
STRATEGY = (
    "norm",
    "affine",
    "adversarial",
    "clean_ratio",
    "clean_weight",
    "pairing_weight",
    "running_statistics",
)
# What whole tables vary beside it: Figure 7, Table 6, Tables 4 and 5.
AXES = ("depth", "blocks", "batch_size", "num_steps", "step_size")
# Of the attack in training. A run on clean images alone has none of it.
ATTACK = (
    "epsilon",
    "targeted",
    "attack_loss",
    "restarts",
    "start_from_clean",
    "clip_start",
    "attack_precision",
)
# What Table 3 varies.
RECIPE = (
    "start_from_clean",
    "epochs",
    "images_per_worker",
    "optimizer",
    "momentum",
    "rmsprop_rho",
    "rmsprop_epsilon",
    "learning_rate",
    "warmup_epochs",
    "decay",
    "decay_epochs",
    "decay_rate",
    "decay_every",
)

_NETWORKS = {"resnet": "ResNet", "small_resnet": "SmallResNet"}


def trained(settings, free):
    """What a run was trained with: its settings in canonical form, without those that are free.

    Args:
        settings: Namespace, the flags of `tfadv.train`.
        free: Names of flags that do not say what is trained.

    Returns:
        A dictionary.
    """
    return canonical({k: v for k, v in vars(settings).items() if k not in free})


def canonical(settings):
    """Settings in one form: those that train the same thing become equal.

    What is left to a default gets its value, what has no effect beside the others becomes None,
    and the attack's step size is the one that its rule makes of it.

    Args:
        settings: Dictionary, the flags of `tfadv.train` that say what is trained.

    Returns:
        A new dictionary.

    Raises:
        ValueError: If there is no such data set or network.
    """
    found = dict(settings)
    entry = catalog.ENTRIES.get(found["dataset"])
    if entry is None:
        raise ValueError(f"dataset must be one of {', '.join(catalog.ENTRIES)}")
    found["image_size"] = found["image_size"] or entry.image_size
    found["blocks"] = architectures.check(
        found["network"], found["depth"], found["image_size"], found["blocks"]
    )
    if entry.num_train and found["steps_per_epoch"] == steps_per_epoch(
        entry.num_train, found["batch_size"]
    ):
        found["steps_per_epoch"] = None
    ratio = found["clean_ratio"]
    if found["clean_weight"] == ratio / (1 + ratio):  # their share
        found["clean_weight"] = None
    if found["step_size_rule"] == "pipeline":
        steps = max(found["num_steps"], 1)
        found["step_size"] = max(found["step_size"], found["epsilon"] / steps)
    for used, names in (
        (False, ["step_size_rule"]),
        (found["adversarial"], [*ATTACK, "num_steps", "step_size"]),
        (found["adversarial"] and found["start_from_clean"] < 1, ["clip_start"]),
        (found["adversarial"], ["clean_ratio", "clean_weight", "pairing_weight"]),
        (found["norm"] == "mbn", ["affine"]),
        (found["optimizer"] == "rmsprop", ["rmsprop_rho", "rmsprop_epsilon"]),
        (found["decay"] == "step", ["decay_epochs"]),
        (found["decay"] == "exponential", ["decay_rate", "decay_every"]),
    ):
        if not used:
            found.update(dict.fromkeys(names))
    return found


def strategy(settings, domain=None, last_epochs=10):
    """The name of a training strategy, as the paper writes it.

    Args:
        settings: Dictionary, of `canonical`.
        domain: The branch of a mixture that was evaluated, `"adv"` or `"clean"`.
        last_epochs: What a plain `*` stands for; other numbers of epochs on running statistics are
            named.

    Returns:
        A string such as `"MBN_adv, 100% adv + 100% clean, ALP*"`.
    """
    norm = settings["norm"].upper()
    parts = {"BN": [], "MBN": [f"MBN_{domain}" if domain else "MBN"]}.get(norm, [norm])
    if settings["affine"] == "shared":
        parts.append("shared affine")
    if settings["adversarial"]:
        parts.append(f"100% adv + {100 * settings['clean_ratio']:g}% clean")
    else:
        parts.append("0% adv + 100% clean")
    if settings["clean_weight"] is not None:
        parts.append(f"alpha {settings['clean_weight']:g}")
    if settings["pairing_weight"]:
        # The weight that `flags/` and the paper's ALP have (pipeline).
        usual = settings["pairing_weight"] == 0.5
        parts.append("ALP" if usual else f"ALP of weight {settings['pairing_weight']:g}")
    last = settings["running_statistics"]
    star = "*" if last else ""
    return ", ".join(parts) + star + (f" (last {last})" if last not in (0, last_epochs) else "")


def network(settings):
    """The name of a network, such as `"ResNet-152"`; with its blocks, if its depth has others."""
    kind, depth = settings["network"], settings["depth"]
    name = f"{_NETWORKS.get(kind, kind)}-{depth}"
    try:
        usual = architectures.check(kind, depth, settings["image_size"])
    except ValueError:
        usual = None
    blocks = settings["blocks"]
    return name if blocks == usual else f"{name} ({'-'.join(map(str, blocks))})"


def attack(settings):
    """`(num_steps, step_size)` of the attack in training; None without one."""
    if not settings["adversarial"]:
        return None
    return settings["num_steps"], settings["step_size"]


def common(settings):
    """What all runs of one set of tables share: neither strategy nor axis."""
    return {
        name: value for name, value in settings.items() if name not in STRATEGY and name not in AXES
    }
