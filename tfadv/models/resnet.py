"""Residual networks.

The names of layers are stable; inspection and the conversion of weights rely on them. On the left
are the pipeline's, where `bn` stands for four arrays:

    conv0/W, conv0/bn                          conv0, norm0                           (relu0, pool0)
    group{i}/block{j}/conv{k}/W                res{i+2}_block{j}_conv{k}
    group{i}/block{j}/conv{k}/bn               res{i+2}_block{j}_norm{k}
    group{i}/block{j}/convshortcut/W, .../bn   res{i+2}_block{j}_convshortcut, ..._normshortcut
    linear/W, linear/b                         logits

So res2, res3, res4 and res5 are the paper's stages (Figure 5 shows a block of res3). A block lies
between two layers whose names end in `_out`, which hold the outputs of blocks. There a network can
be cut, to rematerialize it block by block.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfadv.arguments import is_integer
from tfadv.models import blocks as parts
from tfadv.tables import networks


def ResNet(
    depth: int = 152,
    norm: str = "bn",
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    width: int = 64,
    blocks: Sequence[int] | None = None,
    cardinality: int = 1,
    group_width: int | None = None,
    weight_decay: float = 1e-4,
    norm_options: dict | None = None,
    after_block: Callable | None = None,
    after_stage: Callable | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Makes a ResNet of bottleneck blocks for images of 32 pixels and more.

    A 7x7 convolution and a 3x3 max pool of stride 2 each, stages of bottleneck blocks with the
    stride on the 3x3 convolution, global average pooling, and a dense layer; each block starts as
    its shortcut (pipeline). How ResNet-338, 518 and 638 divide their blocks over the stages is our
    assumption, since the paper does not say: see `tfadv.tables.networks.DEPTHS`.

    The input is pixels in [0, 255]; the first layer, an `InputContract`, takes them to [-1, 1].
    The dtype is that of Keras's global policy, and the logits are float32 under a mixed one.

    Args:
        depth: Integer: 50, 101, 152, 200, 338, 518 or 638.
        norm: Normalization: `"bn"`, `"mbn"`, `"gn"`, `"ln"` or `"in"`.
        num_classes: Integer, the number of logits.
        image_size: Integer, or a pair (height, width), in pixels.
        channels: 3 for RGB or 1 for gray.
        width: Integer, channels of the stem and of the first stage's 3x3 convolutions.
        blocks: List of integers, the number of blocks in each stage, to divide them differently
            than the table does, or for another depth; `depth` must then be `3 * sum(blocks) + 2`.
        cardinality: Integer, groups of the 3x3 convolutions (ResNeXt).
        group_width: Integer, channels of each group in the first stage, or `None` for
            `width / cardinality`. ResNeXt-101 32x8d has `cardinality=32, group_width=8`.
        weight_decay: Float; every kernel of a convolution or dense layer adds
            `weight_decay * sum(w^2) / 2` to the model's losses.
        norm_options: Dictionary, further arguments of every normalization layer, such as
            `{"affine": "shared"}` of a mixture.
        after_block, after_stage: Functions `f(make, x, name) -> x`, applied after every block and
            after every stage (denoising). `make` is the network's `tfadv.models.blocks.Maker`, and
            `name` is the name of the block or stage, with which names of new layers begin.
        seed: Integer that decides all initial weights, each layer's by its name; or `None`.
        name: String, the model's name; by default `resnet152` and so on.

    Returns:
        A functional `keras.Model` from images `[batch, height, width, channels]` to logits
        `[batch, num_classes]`.

    Raises:
        ValueError: If there is no such depth, normalization or image size, or a number is out of
            its range.

    Example:

    ```python
    model = tfadv.models.ResNet(50, norm="mbn")
    ```
    """
    blocks = networks.check("resnet", depth, image_size, blocks)
    _check(
        num_classes,
        width,
        weight_decay,
        seed=(seed, 0),
        cardinality=(cardinality, 1),
        group_width=(group_width, 1),
    )
    if group_width is None and width % cardinality:
        raise ValueError(
            f"cardinality must divide width={width} or group_width be given; received {cardinality}"
        )
    inner = width if group_width is None else cardinality * group_width
    make = parts.Maker(norm, norm_options or {}, weight_decay, seed)
    inputs, x = parts.images(image_size, channels)
    x = make.conv_norm_relu(x, width, 7, strides=2, name="", index=0)
    x = parts.max_pool(x, "pool0")

    def block(x, stage, strides, name):
        scale = 2**stage
        outer = 4 * width * scale
        return parts.bottleneck(
            make, x, inner * scale, outer, strides=strides, groups=cardinality, name=name
        )

    x = _stages(make, x, blocks, block, after_block, after_stage)
    outputs = parts.logits(make, x, num_classes)
    return keras.Model(inputs, outputs, name=name or f"resnet{depth}")


def SmallResNet(
    depth: int = 20,
    norm: str = "bn",
    num_classes: int = 10,
    image_size: int | tuple[int, int] = 32,
    channels: int = 3,
    width: int = 16,
    weight_decay: float = 1e-4,
    norm_options: dict | None = None,
    after_block: Callable | None = None,
    after_stage: Callable | None = None,
    seed: int | None = None,
    name: str | None = None,
    stem_strides: int = 1,
) -> keras.Model:
    """Makes a ResNet of basic blocks for images of 8 to 64 pixels.

    A 3x3 convolution, three stages of n blocks of two 3x3 convolutions each, with 1, 2 and 4 times
    `width` channels and stride 2 at the second and third stage, global average pooling, and a
    dense layer: He et al. (2016), Section 4.2. Where the shape changes, the shortcut is a 1x1
    convolution with normalization, as in the large networks, where He et al. pad with zeros. All
    else is as in `ResNet`: initialization, zero gammas, weight decay, input and logits. The stages
    are named res2, res3 and res4.

    Args:
        depth: Integer, `6n + 2`: 8, 14, 20, ...
        norm: Normalization: `"bn"`, `"mbn"`, `"gn"`, `"ln"` or `"in"`.
        num_classes: Integer, the number of logits.
        image_size: Integer, or a pair (height, width), in pixels.
        channels: 3 for RGB or 1 for gray.
        width: Integer, channels of the first stage.
        weight_decay, norm_options, after_block, after_stage, seed: As in `ResNet`.
        name: String, the model's name; by default `small_resnet20` and so on.
        stem_strides: Integer, the stride of the first convolution: 2 makes the network see images
            of half the height and width, at a third of the cost.

    Returns:
        A functional `keras.Model` from images `[batch, height, width, channels]` to logits
        `[batch, num_classes]`.

    Raises:
        ValueError: As in `ResNet`.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=28, channels=1)
    ```
    """
    blocks = networks.check("small_resnet", depth, image_size)
    if not is_integer(stem_strides) or stem_strides < 1:
        raise ValueError(
            f"stem_strides must be an integer of at least 1; received {stem_strides!r}"
        )
    _check(num_classes, width, weight_decay, seed=(seed, 0))
    make = parts.Maker(norm, norm_options or {}, weight_decay, seed)
    inputs, x = parts.images(image_size, channels)
    x = make.conv_norm_relu(x, width, 3, strides=stem_strides, name="", index=0)

    def block(x, stage, strides, name):
        return parts.basic(make, x, width * 2**stage, strides=strides, name=name)

    x = _stages(make, x, blocks, block, after_block, after_stage)
    outputs = parts.logits(make, x, num_classes)
    return keras.Model(inputs, outputs, name=name or f"small_resnet{depth}")


def StridedSmallResNet(depth: int = 20, norm: str = "bn", **options: Any) -> keras.Model:
    """Makes a `SmallResNet` whose first convolution has stride 2, as that of a `ResNet`.

    It costs about a third of a `SmallResNet`.

    Args:
        depth, norm, **options: As in `SmallResNet`, except `stem_strides`.

    Returns:
        A functional `keras.Model` from images `[batch, height, width, channels]` to logits
        `[batch, num_classes]`.

    Raises:
        ValueError: As in `SmallResNet`.

    Example:

    ```python
    model = tfadv.models.StridedSmallResNet(8, norm="mbn", image_size=28, channels=1)
    ```
    """
    name = options.pop("name", None) or f"strided_small_resnet{depth}"
    return SmallResNet(depth, norm, stem_strides=2, name=name, **options)


def _stages(make, x, blocks, block, after_block, after_stage):
    for stage, count in enumerate(blocks):
        stage_name = f"res{stage + 2}"
        for i in range(count):
            name = f"{stage_name}_block{i}"
            x = block(x, stage, 2 if stage > 0 and i == 0 else 1, name)
            if after_block is not None:
                x = after_block(make, x, name)
        if after_stage is not None:
            x = after_stage(make, x, stage_name)
    return x


def _check(num_classes, width, weight_decay, **optional):
    for name, value, low in (
        ("num_classes", num_classes, 2),
        ("width", width, 1),
        *((name, value, low) for name, (value, low) in optional.items() if value is not None),
    ):
        if not is_integer(value) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}; received {value!r}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be at least 0; received {weight_decay!r}")
