import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfadv")
class NonLocalMeans(keras.layers.Layer):
    """Non-local means: a weighted mean, at every position, of the values at all positions.

    With i and j running over the N = height * width positions of one image and d the channels of
    theta and phi:

        output_i = sum_j softmax_j(theta_i . phi_j / sqrt(d)) value_j        kind="gaussian"
        output_i = sum_j (theta_i . phi_j) value_j / N                       kind="dot_product"

    These are the two versions that the pipeline uses, with its scaling. The layer has no weights.

    The Gaussian version needs N x N numbers for each image. The dot-product version is a product of
    three matrices, which the layer multiplies in the order that needs less memory: N x N numbers or
    d x channels.

    In half precision the softmax is computed in float32, and sums are scaled before they are
    summed, so that the number of positions cannot overflow float16. (The output of the dot-product
    version is of the order of the cube of its inputs times the channels, which may still overflow
    float16, but not bfloat16.)

    Args:
        kind: `"gaussian"` or `"dot_product"`.
        **kwargs: Arguments of the base layer.

    Call arguments:
        inputs: A list of three tensors: theta and phi `[batch, height, width, d]`, and the values
            `[batch, height, width, channels]`. Height and width are static.

    Returns:
        A tensor of the shape of the values, of the compute dtype.

    Raises:
        ValueError: If `kind` is unknown, or the inputs do not have these shapes.

    Reference:

    - [Xie et al., 2019](https://arxiv.org/abs/1812.03411), "Feature denoising for improving
      adversarial robustness"

    Example:

    ```python
    features = keras.layers.Conv2D(8, 3, strides=4)(images)
    denoised = tfadv.layers.NonLocalMeans("gaussian")([features, features, features])
    ```
    """

    def __init__(self, kind: str = "gaussian", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in ("gaussian", "dot_product"):
            raise ValueError(f'kind must be "gaussian" or "dot_product"; received {kind!r}')
        self.kind = kind

    def build(self, input_shape: list[tuple]) -> None:
        theta, phi, values = input_shape
        fixed = None not in (*theta[1:], *values[1:])
        if theta[1:] != phi[1:] or theta[1:3] != values[1:3] or not fixed:
            raise ValueError(
                "inputs must be theta and phi of one shape and values of the same fixed height and "
                f"width; received {theta}, {phi}, {values}"
            )
        self.shapes = tuple(tuple(shape[1:]) for shape in input_shape)

    def call(self, inputs: list[Any]) -> Any:
        theta, phi, values = inputs
        height, width, channels = values.shape[1:]
        positions, size = height * width, theta.shape[-1]
        theta, phi = (ops.reshape(x, (-1, positions, size)) for x in (theta, phi))
        flat = ops.reshape(values, (-1, positions, channels))
        # `einsum` in bfloat16 on a CPU took 15 times as long, and its sums were 8% off.
        if self.kind == "gaussian":
            weights = ops.matmul(theta * (1 / math.sqrt(size)), _transpose(phi))
            means = ops.matmul(ops.cast(_softmax(weights), flat.dtype), flat)
        else:
            phi = _transpose(phi * (1 / positions))
            if positions**2 <= size * channels:
                means = ops.matmul(ops.matmul(theta, phi), flat)
            else:
                means = ops.matmul(theta, ops.matmul(phi, flat))
        return ops.reshape(means, (-1, height, width, channels))

    def compute_output_shape(self, input_shape: list[tuple]) -> tuple:
        return input_shape[2]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def _transpose(x):
    return ops.transpose(x, (0, 2, 1))


def _softmax(logits):
    half = keras.backend.standardize_dtype(logits.dtype) in ("float16", "bfloat16")
    logits = ops.cast(logits, "float32") if half else logits
    if logits.shape[-1] == 1:
        # Keras warns about the softmax of one position, which the last stage has for 32 pixels.
        return ops.exp(logits - logits)
    return ops.softmax(logits, axis=-1)
