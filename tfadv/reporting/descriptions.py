"""Sections in words: what they are, and how they differ from the paper."""

import re

from tfadv.reporting import settings as meaning
from tfadv.reporting.markdown import lines
from tfadv.reporting.table import attack_name


def title(section):
    """What a section is of: `"digits, small_resnet, epsilon 80"`."""
    common, attack = section.common, section.protocol.attack
    parts = [section.protocol.dataset, common["network"]]
    if attack:
        parts.append(f"epsilon {attack[0]:g}")
    return ", ".join(parts)


def names(sections):
    """A name for each section, for files: `"digits-small_resnet-epsilon80"`, all different."""
    found = []
    for section in sections:
        name = re.sub(r"[^\w.]+", "-", title(section).replace("epsilon ", "epsilon"))
        same = sum(each == name or each.startswith(f"{name}-no") for each in found)
        found.append(f"{name}-no{same + 1}" if same else name)
    return found


def protocol(how):
    """A `Protocol` in words."""
    images = "the whole validation set" if how.whole else "a part of the validation set"
    parts = [
        f"{how.images} images of {how.dataset}, {images}, at {how.image_size} pixels; "
        f"{how.checkpoint} network"
    ]
    if how.attack:
        epsilon, targeted, loss, chance, clipped, restarts, precision = how.attack
        start = {0: "random start", 1: "start from the image"}.get(
            chance, f"start from the image with probability {chance:g}"
        ) + (", clipped to the range" if clipped else "")
        parts.append(
            f"{'targeted' if targeted else 'untargeted'} PGD, epsilon {epsilon:g} of 255, "
            f"loss {loss}, {start}, restarts {restarts}"
            + ("" if precision == "float32" else f", attacked in {precision}")
        )
    return "; ".join(parts)


def base(section):
    """The settings at which the tables stand that vary something else."""
    network, batch, attack = section.base
    named = next(
        meaning.network(entry.settings)
        for entry in section.entries
        if (entry.settings["depth"], entry.settings["blocks"]) == network
    )
    parts = [named, f"batch size {batch}"]
    if attack:
        parts.append(f"{attack_name(section, attack)} in training (step size {attack[1]:g})")
    return ", ".join(parts)


def differences(section, papers):
    """How a section differs from the paper's: a table in Markdown.

    Args:
        section: `Section`.
        papers: The paper's `Section`.
    """
    rows = []
    for name, here in section.common.items():
        there = papers.common[name]
        # What an attack was like says nothing of networks that were trained without one.
        if here != there and not (name in meaning.ATTACK and section.common["epsilon"] is None):
            rows.append([f"training: {name}", _text(here), _text(there)])
    fields = ("dataset", "image_size", "images", "whole", "checkpoint")
    for name in fields:
        here, there = getattr(section.protocol, name), getattr(papers.protocol, name)
        if here != there:
            named = "whole validation set" if name == "whole" else name
            rows.append([f"evaluation: {named}", _text(here), _text(there)])
    attack = (
        *("epsilon", "targeted", "attack_loss", "start_from_clean", "clip_start", "restarts"),
        "attack_precision",
    )
    if section.protocol.attack:
        pairs = zip(attack, section.protocol.attack, papers.protocol.attack, strict=True)
        rows += [[f"evaluation: {n}", _text(h), _text(t)] for n, h, t in pairs if h != t]
    if not rows:
        return "The step sizes of the evaluation differ from the paper's.\n"
    return lines(["what differs", "here", "the paper"], rows, 3)


def _text(value):
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
