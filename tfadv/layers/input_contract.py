from typing import Any

import keras


@keras.saving.register_keras_serializable("tfadv")
class InputContract(keras.layers.Layer):
    """First layer of a model: scales images to [-1, 1] and states what the model expects.

    `output = 2 * (input - low) / (high - low) - 1`

    Preprocessing that does not match the weights ruins every result without an error. A model that
    begins with this layer carries its preprocessing in its file, and tfadv reads it before it
    feeds or attacks the model. The rest of the network sees [-1, 1] (pipeline).

    Args:
        value_range: Two floats, the lowest and the highest value that a pixel can have.
        channel_order: `"RGB"`, `"BGR"` (the pipeline's released weights) or `"gray"`. It states
            what the model expects; the layer does not reorder channels.
        **kwargs: Arguments of the base layer.

    Call arguments:
        inputs: Images, a tensor of any numeric dtype, `[batch, height, width, channels]`.

    Returns:
        A tensor of the same shape, of the compute dtype.

    Raises:
        ValueError: If `value_range` is empty or `channel_order` is unknown.

    Example:

    ```python
    contract = tfadv.layers.InputContract(value_range=(0, 255))
    inputs = keras.Input((64, 64, 3))
    model = keras.Sequential([inputs, contract, keras.layers.Flatten(), keras.layers.Dense(10)])
    model.save("model.keras")
    print(tfadv.models.contract(keras.models.load_model("model.keras")).value_range)
    ```
    """

    def __init__(
        self,
        value_range: tuple[float, float] = (0.0, 255.0),
        channel_order: str = "RGB",
        **kwargs: Any,
    ) -> None:
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

    def call(self, inputs: Any) -> Any:
        scale, offset = self.scale_and_offset
        # In float32, because half precision cannot tell 256 levels around zero apart.
        outputs = keras.ops.cast(inputs, "float32") * scale + offset
        return keras.ops.cast(outputs, self.compute_dtype)

    @property
    def scale_and_offset(self) -> tuple[float, float]:
        """The arguments of a `keras.layers.Rescaling` that computes the same."""
        low, high = self.value_range
        return 2.0 / (high - low), -(high + low) / (high - low)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "value_range": self.value_range,
            "channel_order": self.channel_order,
        }
