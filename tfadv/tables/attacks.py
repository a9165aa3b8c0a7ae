"""The table of attacks. A new one is one file in `tfadv/attacks/` and one line here."""

from typing import NamedTuple

from tfadv import results


class Entry(NamedTuple):
    """One attack.

    Attributes:
        path: Module and class of a `tfadv.attacks.Attack`. Results name the attack by this
            class: `"PGD-10"`.
        has_steps: Whether it takes a number of steps, which its name then ends with.
    """

    path: str
    has_steps: bool = True


ATTACKS = {
    "pgd": Entry("tfadv.attacks.pgd:PGD"),
}


def check(attack: str) -> None:
    """Raises `ValueError` unless `attack` is in the table."""
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}; received {attack!r}")


def label(attack: str) -> str:
    """Returns what results call an attack of the table: `"PGD"` for `"pgd"`."""
    return ATTACKS[attack].path.rpartition(":")[2]


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
