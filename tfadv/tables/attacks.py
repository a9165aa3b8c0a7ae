"""The table of attacks. A new one is one file in `tfadv/attacks/` and one line here."""

from typing import Any, NamedTuple

from tfadv import results


class Entry(NamedTuple):
    """One attack.

    Attributes:
        path: Module and class of a `tfadv.attacks.Attack`.
        has_steps: Whether it takes a number of steps, which its name then ends with.
        label: What results call it, its `label`: the name of the class unless stated.
        arguments: Arguments of the class that this entry sets, whatever the settings are.
        eval_steps: Numbers of steps that its evaluation takes by default, instead of the paper's.
    """

    path: str
    has_steps: bool = True
    label: str | None = None
    arguments: dict[str, Any] | None = None
    eval_steps: tuple[int, ...] | None = None


ATTACKS = {
    "pgd": Entry("tfadv.attacks.pgd:PGD"),
    "apgd_ce": Entry(
        "tfadv.attacks.apgd:APGD",
        label="APGD-CE",
        arguments={"loss": "cross_entropy"},
        eval_steps=(100,),
    ),
    "apgd_dlr_targeted": Entry(
        "tfadv.attacks.apgd:APGD",
        label="APGD-T",
        arguments={"loss": "targeted_dlr"},
        eval_steps=(100,),
    ),
    "fab_targeted": Entry("tfadv.attacks.fab:FAB", label="FAB-T", eval_steps=(100,)),
    "square": Entry("tfadv.attacks.square:Square", has_steps=False),
    "autoattack": Entry(
        "tfadv.attacks.autoattack:AutoAttack",
        has_steps=False,
        arguments={"version": "standard"},
    ),
    "autoattack_plus": Entry(
        "tfadv.attacks.autoattack:AutoAttack",
        has_steps=False,
        label="AutoAttack-plus",
        arguments={"version": "plus"},
    ),
    "autoattack_rand": Entry(
        "tfadv.attacks.autoattack:AutoAttack",
        has_steps=False,
        label="AutoAttack-rand",
        arguments={"version": "rand"},
    ),
}


def check(attack: str) -> None:
    """Raises `ValueError` unless `attack` is in the table."""
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}; received {attack!r}")


def label(attack: str) -> str:
    """Returns what results call an attack of the table: `"PGD"` for `"pgd"`."""
    entry = ATTACKS[attack]
    return entry.label or entry.path.rpartition(":")[2]


def name(attack: str, num_steps: int | None) -> str:
    """Returns what results call an attack of the table with so many steps: `"PGD-10"`."""
    return results.attack_name(label(attack), num_steps if ATTACKS[attack].has_steps else None)


def key(attack: str, num_steps: int | None) -> str:
    """Returns `name` as logs and charts spell it: `"pgd10"`."""
    return results.key(name(attack, num_steps))


def effective_step_size(rule: str, step_size: float, epsilon: float, num_steps: int) -> float:
    """Applies the step-size rule.

    Args:
        rule: `"fixed"` returns `step_size`; `"pipeline"` raises it to `epsilon / num_steps` where
            that is larger (pipeline).
        step_size: In pixels of 255.
        epsilon: In pixels of 255.
        num_steps: Without steps, both rules return `step_size`.

    Returns:
        The step size, in pixels of 255.
    """
    if rule == "fixed" or num_steps == 0:
        return step_size
    return max(step_size, epsilon / num_steps)
