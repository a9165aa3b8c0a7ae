"""Which networks there are, as data: read before TensorFlow is imported, to check flags."""

import operator

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

# The smallest and the largest image of each network, in pixels. A ResNet halves its images five
# times; three stages without a stem that shrinks see too little of an image beyond 64 pixels.
IMAGE_SIZES = {
    "resnet": (32, None),
    "resnet_denoise": (32, None),
    "resnext_denoise_all": (32, None),
    "small_resnet": (8, 64),
}

NETWORKS = tuple(IMAGE_SIZES)


def check(network, depth, image_size, blocks=None):
    """Checks that a network exists, before anything is built.

    Args:
        network: One of `NETWORKS`.
        depth: Integer, the number of convolutions and dense layers from image to logits, without
            those of denoising blocks.
        image_size: Integer, or a pair (height, width), in pixels.
        blocks: List of integers, the number of blocks in each stage of a network whose depth is
            not in the table, or is to be split in another way; `None` for the table.

    Returns:
        A tuple of integers, the number of blocks in each stage.

    Raises:
        ValueError: If there is no such network, depth or image size, in one line that says what
            is allowed.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}; received {network!r}")
    _check_image_size(network, image_size)
    if network == "small_resnet":
        if blocks is not None:
            raise ValueError(f"blocks must be None for small_resnet; received {blocks}")
        if not is_integer(depth) or depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth of small_resnet must be 6n + 2 (8, 14, 20, 26, 32, ...); received {depth!r}"
            )
        return ((int(depth) - 2) // 6,) * 3
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


def _check_image_size(network, image_size):
    low, high = IMAGE_SIZES[network]
    sizes = image_size if isinstance(image_size, tuple | list) else (image_size,)
    if len(sizes) not in (1, 2) or not all(
        is_integer(size) and size >= low and (high is None or size <= high) for size in sizes
    ):
        rule = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"image_size of {network} must be {rule} pixels; received {image_size!r}")


def is_integer(value):
    """Whether a value is an integer, NumPy's included, and no boolean."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
