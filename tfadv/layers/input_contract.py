import keras


@keras.saving.register_keras_serializable("tfadv")
class InputContract(keras.layers.Layer):
    """The first layer of a model: what its images are, kept with its weights.

    `output = 2 * (input - low) / (high - low) - 1`

    Preprocessing that does not match the weights ruins every number silently; a model that begins
    with this layer carries its preprocessing, and every program of tfadv reads it before it feeds
    the model. The network behind it sees [-1, 1] (pipeline).

    Args:
        value_range: Two floats, the lowest and the highest value of an image.
        channel_order: `"RGB"`, `"BGR"` (the pipeline's released weights) or `"gray"`; what the
            model expects, not a conversion.
        **kwargs: Of the base layer.

    Call arguments:
        inputs: Images, a tensor of any numeric dtype, `[batch, height, width, channels]`.

    Returns:
        A tensor of the same shape, of the compute dtype.

    Raises:
        ValueError: If `value_range` is empty or `channel_order` unknown.
    """

    def __init__(self, value_range=(0.0, 255.0), channel_order="RGB", **kwargs):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        low, high = (float(value) for value in value_range)
        if not low < high:
            raise ValueError(
                f"value_range must be (low, high) with low < high; received {value_range}"
            )
        if channel_order not in ("RGB", "BGR", "gray"):
            raise ValueError(
                f'channel_order must be "RGB", "BGR" or "gray"; received {channel_order!r}'
            )
        self.value_range = (low, high)
        self.channel_order = channel_order

    def call(self, inputs):
        scale, offset = self.scale_and_offset
        # In float32 first: half precision has no room for 256 levels around zero.
        outputs = keras.ops.cast(inputs, "float32") * scale + offset
        return keras.ops.cast(outputs, self.compute_dtype)

    @property
    def scale_and_offset(self):
        """What `keras.layers.Rescaling` needs to do the same."""
        low, high = self.value_range
        return 2.0 / (high - low), -(high + low) / (high - low)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "value_range": self.value_range,
            "channel_order": self.channel_order,
        }
