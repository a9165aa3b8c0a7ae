import textwrap

import numpy as np
from matplotlib.figure import Figure

_COLUMNS = ("clean", "adversarial", "perturbation")


def pairs_figure(clean, adversarial, epsilon, captions, value_range=(0, 255)):
    """Draws clean images beside their adversarial counterparts, and what is between them.

    The perturbation is magnified so that grey is 0, and -epsilon and epsilon are the ends of the
    range, in each channel.

    Args:
        clean, adversarial: Arrays `[images, height, width, channels]`, of 1 or 3 channels.
        epsilon: Largest change, in pixels of 255.
        captions: List of pairs of strings, below each clean and each adversarial image; a line of
            them is cut at 36 letters.
        value_range: `(low, high)` of the images.

    Returns:
        A `matplotlib.figure.Figure` that needs no display and touches no global state.
    """
    low, high = value_range
    count = len(clean)
    radius = epsilon * (high - low) / 255
    figure = Figure(
        figsize=(2.6 * count + 0.5, 8), dpi=100, facecolor="white", layout="constrained"
    )
    axes = figure.subplots(len(_COLUMNS), count, squeeze=False)
    scaled = [
        (clean - low) / (high - low),
        (adversarial - low) / (high - low),
        0.5 + (adversarial - clean) / (2 * radius or 1),
    ]
    for row, images in zip(axes, scaled, strict=True):
        for ax, image in zip(row, images, strict=True):
            # Every pixel as it is: smoothed ones would hide what was changed.
            options = {"interpolation": "nearest", "vmin": 0, "vmax": 1}
            ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", **options)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
    for place, pair in enumerate(captions):
        for row, caption in zip(axes, pair, strict=False):
            lines = [textwrap.shorten(line, 36, placeholder="...") for line in caption.split("\n")]
            row[place].set_xlabel("\n".join(lines), fontsize=9)
    for row, name in zip(axes, _COLUMNS, strict=True):
        row[0].set_ylabel(name, fontsize=10)
    axes[-1][0].set_xlabel(f"grey is 0, the ends are ±{epsilon:g} of 255", fontsize=9)
    return figure
