"""The table of networks. A new one is one file in `tfadv/models/` and one line here."""

import dataclasses
import math
from collections.abc import Callable

from tfadv.arguments import is_integer

# Bottleneck blocks in each of the four stages. 50 to 152 are those of He et al. (2016), 200 the
# usual one (pipeline). The paper gives 338, 518 and 638 by their depth alone, and how their blocks
# are split over the stages is published nowhere that we know of: that they keep ResNet-200's first,
# second and last stage is OUR ASSUMPTION. `blocks=` overrides it.
DEPTHS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    338: (3, 24, 82, 3),
    518: (3, 24, 142, 3),
    638: (3, 24, 182, 3),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        function: Where the function is that makes it. It takes the depth, and by name `norm`,
            `num_classes`, `image_size`, `channels`, `weight_decay`, `norm_options` and `seed`; and
            `width` and `blocks` where a user gives them.
        stages: Function of the network's name, its depth and the `blocks` that a user gives, or
            None; returns the number of blocks in each stage, or raises `ValueError`.
        smallest, largest: Limits of the height and the width of its images, in pixels.
    """

    function: str
    stages: Callable
    smallest: int
    largest: float = math.inf


def _bottleneck_stages(network, depth, blocks):
    if blocks is None:
        if not is_integer(depth) or depth not in DEPTHS:
            allowed = ", ".join(map(str, DEPTHS))
            raise ValueError(
                f"depth of {network} must be one of {allowed}, or blocks given; received {depth!r}"
            )
        return DEPTHS[depth]
    if not blocks or not all(is_integer(count) and count > 0 for count in blocks):
        raise ValueError(f"blocks must be positive integers, one a stage; received {blocks}")
    # A run is known by its depth, so a depth that is not the network's must not pass.
    if not is_integer(depth) or depth != 3 * sum(blocks) + 2:
        raise ValueError(
            f"depth must be 3 * sum(blocks) + 2 = {3 * sum(blocks) + 2} for the given blocks; "
            f"received {depth!r}"
        )
    return tuple(int(count) for count in blocks)


def _basic_stages(network, depth, blocks):
    if blocks is not None:
        raise ValueError(f"blocks must be None for {network}; received {blocks}")
    if not is_integer(depth) or depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"depth of {network} must be 6n + 2 (8, 14, 20, 26, 32, ...); received {depth!r}"
        )
    return ((int(depth) - 2) // 6,) * 3


# A ResNet halves its images five times. The three stages of a small one, whose stem does not
# shrink them, see too little of an image beyond 64 pixels.
NETWORKS = {
    "resnet": Network("tfadv.models.resnet:ResNet", _bottleneck_stages, 32),
    "resnet_denoise": Network("tfadv.models.denoising:ResNetDenoise", _bottleneck_stages, 32),
    "resnext_denoise_all": Network(
        "tfadv.models.denoising:ResNeXtDenoiseAll", _bottleneck_stages, 32
    ),
    "small_resnet": Network("tfadv.models.resnet:SmallResNet", _basic_stages, 8, 64),
    "strided_small_resnet": Network("tfadv.models.resnet:StridedSmallResNet", _basic_stages, 8, 64),
}


def check(network, depth, image_size, blocks=None) -> tuple[int, ...]:
    """Checks that a network exists, before anything is built.

    Args:
        network: A name in `NETWORKS`.
        depth: Integer, the number of convolutions and dense layers from image to logits, without
            those of denoising blocks.
        image_size: Integer, or a pair (height, width), in pixels.
        blocks: List of integers, the number of blocks in each stage of a network whose depth is
            not in the table, or is to be split in another way; `None` for the table.

    Returns:
        The number of blocks in each stage.

    Raises:
        ValueError: If there is no such network, depth or image size, in one line that says what
            is allowed.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}; received {network!r}")
    entry = NETWORKS[network]
    sizes = image_size if isinstance(image_size, tuple | list) else (image_size,)
    if len(sizes) not in (1, 2) or not all(
        is_integer(size) and entry.smallest <= size <= entry.largest for size in sizes
    ):
        rule = f"between {entry.smallest} and {entry.largest}"
        if entry.largest == math.inf:
            rule = f"at least {entry.smallest}"
        raise ValueError(f"image_size of {network} must be {rule} pixels; received {image_size!r}")
    return entry.stages(network, depth, blocks)
