import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfadv")
class NonLocalMeans(keras.layers.Layer):
    """At every position, a weighted mean of the values at all positions (Feature Denoising).

    With i and j running over the N = height * width positions of one image and d the channels of
    theta and phi:

        output_i = sum_j softmax_j(theta_i . phi_j / sqrt(d)) value_j        kind="gaussian"
        output_i = sum_j (theta_i . phi_j) value_j / N                       kind="dot_product"

    These are the two versions that the pipeline uses, and its scaling. The layer has no weights.

    The N x N weights of an image are the memory it takes. The Gaussian version cannot do without
    them. The dot-product version is a product of three matrices, which is computed from the right,
    over the d x channels matrix of phi and the values, where that one is smaller.

    In half precision the softmax is computed in float32, and sums are scaled before they are
    summed, so that none leaves the range of float16 for the number of positions. (The dot-product
    version's output itself is of the size of the input's cube times the channels, which may leave
    it; that of bfloat16 it does not.)

    Args:
        kind: `"gaussian"` or `"dot_product"`.
        **kwargs: Of the base layer.

    Call arguments:
        inputs: A list of three tensors, theta and phi `[batch, height, width, d]` and the values
            `[batch, height, width, channels]`; height and width are fixed.

    Returns:
        A tensor of the shape of the values, of the compute dtype.

    Raises:
        ValueError: For another kind, or inputs of other shapes.
    """

    def __init__(self, kind="gaussian", **kwargs):
        super().__init__(**kwargs)
        if kind not in ("gaussian", "dot_product"):
            raise ValueError(f'kind must be "gaussian" or "dot_product"; received {kind!r}')
        self.kind = kind

    def build(self, input_shape):
        theta, phi, values = input_shape
        # Only the batch may be unknown.
        fixed = None not in (*theta[1:], *values[1:])
        if theta[1:] != phi[1:] or theta[1:3] != values[1:3] or not fixed:
            raise ValueError(
                "inputs must be theta and phi of one shape and values of the same fixed height and "
                f"width; received {theta}, {phi}, {values}"
            )

        self.shapes = tuple(tuple(shape[1:]) for shape in input_shape)

    def call(self, inputs):
        theta, phi, values = inputs
        height, width, channels = values.shape[1:]
        positions, size = height * width, theta.shape[-1]
        theta, phi = (ops.reshape(x, (-1, positions, size)) for x in (theta, phi))
        flat = ops.reshape(values, (-1, positions, channels))
        # Not `einsum`, which in bfloat16 on a CPU took 15 times as long, with sums 8% off.
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

    def compute_output_shape(self, input_shape):
        return input_shape[2]

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def _transpose(x):
    return ops.transpose(x, (0, 2, 1))


def _softmax(logits):
    half = keras.backend.standardize_dtype(logits.dtype) in ("float16", "bfloat16")
    logits = ops.cast(logits, "float32") if half else logits
    if logits.shape[-1] == 1:
        # One position, as in the last stage for images of 32 pixels: Keras's softmax would warn.
        return ops.exp(logits - logits)
    return ops.softmax(logits, axis=-1)
