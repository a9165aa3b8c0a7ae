"""Residual networks with denoising blocks, which a `ResNet` adds through its hooks.

From Feature Denoising for Improving Adversarial Robustness (Xie et al., CVPR 2019), as the
pipeline builds them. The names of the new layers, beside the pipeline's:

    group{i}_denoise/embedding_theta/W          res{i+2}_denoise_theta              (ResNetDenoise)
    group{i}_denoise/embedding_phi/W            res{i+2}_denoise_phi
    group{i}_denoise/conv/W                     res{i+2}_denoise_conv
    group{i}_denoise/conv/bn                    res{i+2}_denoise_norm
    group{i}/block{j}/non_local/conv/W          res{i+2}_block{j}_denoise_conv  (ResNeXtDenoiseAll)
    group{i}/block{j}/non_local/conv/bn         res{i+2}_block{j}_denoise_norm

The non-local means are `..._denoise_means`, the sums `..._denoise_out`: a denoising block, too,
lies between two layers whose names end in `_out`. All other names are those of `ResNet`.
"""

from typing import Any

import keras

from tfadv.layers import NonLocalMeans
from tfadv.models.resnet import ResNet


def ResNetDenoise(
    depth: int = 152, norm: str = "bn", *, name: str | None = None, **options: Any
) -> keras.Model:
    """Makes a ResNet with one Gaussian denoising block after each of its stages.

    A denoising block is `output = x + norm(conv(means(theta(x), phi(x), x)))`, without a ReLU:
    `means` are `NonLocalMeans` of kind `"gaussian"`; `theta` and `phi` are 1x1 convolutions to half
    the channels, without bias, normalization or ReLU, that start from a normal of deviation 0.01;
    `conv` is a 1x1 convolution, without bias; and the gamma of `norm` starts at zero, so that the
    block starts as the identity (pipeline). `norm` is the network's own, so it is a mixture in a
    network of mixtures (our choice: the pipeline has no mixtures).

    Args:
        depth, norm, **options: As in `ResNet`, except `after_stage`. The pipeline has depths 50,
            101 and 152; depth does not count the denoising blocks.
        name: String, the model's name; by default `resnet_denoise152` and so on.

    Returns:
        A functional `keras.Model` from images `[batch, height, width, channels]` to logits
        `[batch, num_classes]`.

    Raises:
        ValueError: As in `ResNet`.

    Example:

    ```python
    model = tfadv.models.ResNetDenoise(50, norm="mbn")
    ```
    """
    name = name or f"resnet_denoise{depth}"
    return ResNet(depth, norm, after_stage=_gaussian, name=name, **options)


def ResNeXtDenoiseAll(
    depth: int = 101,
    norm: str = "bn",
    *,
    width: int = 64,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """Makes a ResNeXt with a dot-product denoising block after every residual block.

    The network is ResNeXt 32x8d: the 3x3 convolutions have 32 groups, of 8 channels in the first
    stage. The denoising block is that of `ResNetDenoise` without embeddings: its `NonLocalMeans`,
    of kind `"dot_product"`, take x three times (pipeline).

    Args:
        depth, norm, **options: As in `ResNet`, except `after_block`. The pipeline has depths 50,
            101 and 152; depth does not count the denoising blocks.
        width: Integer, channels of the stem. `group_width` is by default an eighth of it, at least
            1, and so 8 for 64 (other widths are our choice); `cardinality` is 32.
        name: String, the model's name; by default `resnext_denoise_all101` and so on.

    Returns:
        A functional `keras.Model` from images `[batch, height, width, channels]` to logits
        `[batch, num_classes]`.

    Raises:
        ValueError: As in `ResNet`.

    Example:

    ```python
    model = tfadv.models.ResNeXtDenoiseAll(101, norm="mbn")
    ```
    """
    options = {"cardinality": 32, "group_width": max(width // 8, 1), **options}
    name = name or f"resnext_denoise_all{depth}"
    return ResNet(depth, norm, width=width, after_block=_dot_product, name=name, **options)


def _gaussian(make, x, name):
    def embedding(which):
        return make.conv(x.shape[-1] // 2, 1, stddev=0.01, name=f"{name}_denoise_{which}")(x)

    return _denoise(make, x, [embedding("theta"), embedding("phi"), x], "gaussian", name)


def _dot_product(make, x, name):
    return _denoise(make, x, [x, x, x], "dot_product", name)


def _denoise(make, x, inputs, kind, name):
    name = f"{name}_denoise"
    y = NonLocalMeans(kind, name=f"{name}_means")(inputs)
    y = make.conv(x.shape[-1], 1, name=f"{name}_conv")(y)
    y = make.normalization(x.shape[-1], name=f"{name}_norm", gamma="zeros")(y)
    # The shortcut first, as in `blocks`, or Keras's recursion would end before a deep network's.
    return keras.layers.Add(name=f"{name}_out")([x, y])
