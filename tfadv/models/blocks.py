"""The parts of residual networks."""

import dataclasses
import zlib
from typing import Any

import keras
import numpy as np

from tfadv import layers

# Images are NHWC here, whatever Keras's configuration says, and a CPU runs nothing else.
_LAST = {"data_format": "channels_last"}


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the layers of one network, which all follow the same rules.

    Kernels start from variance scaling (2.0, fan out, untruncated normal), padding is SAME,
    convolutions have no bias, and weight decay is on kernels only (pipeline).

    Args:
        norm: A name of `tfadv.layers.normalization`.
        norm_options: Dictionary, further arguments of every normalization layer.
        weight_decay: Float; each kernel adds `weight_decay * sum(w^2) / 2` to the loss.
        seed: Integer from which every layer's own seed is derived, or `None` for Keras's seed.
    """

    norm: str = "bn"
    norm_options: dict = dataclasses.field(default_factory=dict)
    weight_decay: float = 1e-4
    seed: int | None = None

    def conv(
        self,
        filters: int,
        size: int,
        *,
        name: str,
        strides: int = 1,
        groups: int = 1,
        stddev: float | None = None,
    ) -> keras.Layer:
        """Makes a convolution; with `stddev` it starts from a normal of that deviation."""
        # Keras's own layer where it will do: every tool knows it.
        kind = keras.layers.Conv2D if groups == 1 else layers.GroupedConv2D
        return kind(
            filters,
            size,
            strides=strides,
            padding="same",
            groups=groups,
            use_bias=False,
            kernel_initializer=self._initializer(name, stddev),
            kernel_regularizer=self._regularizer(),
            name=name,
            **_LAST,
        )

    def normalization(self, channels: int, *, name: str, gamma: str = "ones") -> keras.Layer:
        """Makes a normalization layer whose gamma starts from ones, or from zeros."""
        return layers.normalization(
            self.norm, channels, name=name, gamma_initializer=gamma, **self.norm_options
        )

    def dense(
        self, units: int, *, name: str, stddev: float | None = None, dtype: Any = None
    ) -> keras.layers.Dense:
        """Makes a dense layer with a bias; the bias has no weight decay."""
        return keras.layers.Dense(
            units,
            kernel_initializer=self._initializer(name, stddev),
            kernel_regularizer=self._regularizer(),
            name=name,
            dtype=dtype,
        )

    def conv_norm_relu(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int,
        *,
        name: str,
        index: int,
        strides: int = 1,
        groups: int = 1,
    ) -> keras.KerasTensor:
        """Applies convolution, normalization and ReLU, named by `index`: conv1, norm1, relu1."""
        x = self.conv(filters, size, strides=strides, groups=groups, name=f"{name}conv{index}")(x)
        x = self.normalization(filters, name=f"{name}norm{index}")(x)
        return keras.layers.ReLU(name=f"{name}relu{index}")(x)

    def _initializer(self, name, stddev):
        seed = None
        if self.seed is not None:
            # By name, not by order, so that a layer added to a network does not change the others.
            key = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
            seed = int(key.generate_state(1)[0])
        if stddev is not None:
            return keras.initializers.RandomNormal(stddev=stddev, seed=seed)
        return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=seed)

    def _regularizer(self):
        return keras.regularizers.L2(self.weight_decay / 2) if self.weight_decay else None


def bottleneck(
    make: Maker,
    x: keras.KerasTensor,
    inner: int,
    outer: int,
    *,
    name: str,
    strides: int = 1,
    groups: int = 1,
) -> keras.KerasTensor:
    """Applies a bottleneck block: 1x1, 3x3 and 1x1 convolutions around a shortcut.

    `output = relu(shortcut(x) + norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x)))))))))`

    Args:
        make: A `Maker`.
        x: Keras tensor `[batch, height, width, channels]`.
        inner: Integer, channels of the first two convolutions.
        outer: Integer, channels of the output.
        name: String, the block's name; its layers are `{name}_conv1` and so on.
        strides: Integer, stride of the 3x3 convolution and of the shortcut (pipeline).
        groups: Integer, groups of the 3x3 convolution (ResNeXt: its cardinality).

    Returns:
        A Keras tensor.
    """

    def branch(y):
        y = make.conv_norm_relu(y, inner, 1, name=f"{name}_", index=1)
        y = make.conv_norm_relu(
            y, inner, 3, strides=strides, groups=groups, name=f"{name}_", index=2
        )
        y = make.conv(outer, 1, name=f"{name}_conv3")(y)
        # The last gamma of the branch starts at zero, so that the block starts as its shortcut.
        return make.normalization(outer, name=f"{name}_norm3", gamma="zeros")(y)

    return _residual(make, x, branch, outer, strides, name)


def basic(
    make: Maker, x: keras.KerasTensor, outer: int, *, name: str, strides: int = 1
) -> keras.KerasTensor:
    """Applies a basic block: two 3x3 convolutions around a shortcut.

    `output = relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x))))))`

    Args:
        make, x, outer, name: As in `bottleneck`.
        strides: Integer, stride of the first convolution and of the shortcut.

    Returns:
        A Keras tensor.
    """

    def branch(y):
        y = make.conv_norm_relu(y, outer, 3, strides=strides, name=f"{name}_", index=1)
        y = make.conv(outer, 3, name=f"{name}_conv2")(y)
        return make.normalization(outer, name=f"{name}_norm2", gamma="zeros")(y)

    return _residual(make, x, branch, outer, strides, name)


def _residual(make, x, branch, outer, strides, name):
    shortcut = x
    if strides != 1 or x.shape[-1] != outer:
        shortcut = make.conv(outer, 1, strides=strides, name=f"{name}_convshortcut")(x)
        shortcut = make.normalization(outer, name=f"{name}_normshortcut")(shortcut)
    # The shortcut comes first: Keras walks back through a model by recursion, in this order, and so
    # reaches the image over the shortcuts, with two calls per block. Over the branches it would be
    # ten, and Python's limit of 1000 calls would stop it at 100 of ResNet-638's 212 blocks.
    y = keras.layers.Add(name=f"{name}_add")([shortcut, branch(x)])
    return keras.layers.ReLU(name=f"{name}_out")(y)


def images(
    image_size: int | tuple[int, int], channels: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Makes the input of a network and its `InputContract`: pixels in [0, 255] to [-1, 1].

    Args:
        image_size: Integer, or a pair (height, width).
        channels: 3 for RGB, 1 for gray.

    Returns:
        The Keras input, and the scaled Keras tensor.

    Raises:
        ValueError: If `channels` is neither 1 nor 3.
    """
    orders = {1: "gray", 3: "RGB"}
    if channels not in orders:
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB); received {channels!r}")
    height, width = np.broadcast_to(image_size, 2).tolist()
    inputs = keras.Input((height, width, channels), name="images")
    contract = layers.InputContract((0.0, 255.0), orders[channels], name="input_contract")
    return inputs, contract(inputs)


def logits(make: Maker, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Applies global average pooling and the last dense layer.

    Returns:
        A Keras tensor `[batch, num_classes]`. It is float32 even in a network that computes in half
        precision with float32 weights: the rounding would show in the losses.
    """
    half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
    dtype = "float32" if half else None
    x = keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype, **_LAST)(x)
    if keras.config.dtype_policy().variable_dtype in ("float16", "bfloat16"):
        dtype = None  # Keras cannot add weight decay in float32 to that of half-precision weights
    return make.dense(num_classes, stddev=0.01, name="logits", dtype=dtype)(x)


def max_pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Applies the stem's 3x3 max pool of stride 2, padding SAME."""
    return keras.layers.MaxPooling2D(3, 2, "same", name=name, **_LAST)(x)
