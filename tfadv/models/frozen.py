from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.arguments import Immutable
from tfadv.models import calling, folding, graphs

PRECISIONS = ("float32", "bfloat16", "float16")


class Frozen(Immutable):
    """Inference-only network for attacks: batch normalization folded, weights cast once.

    An attack calls a network many times while its weights stand still. So each batch normalization
    that alone follows a convolution, a depthwise convolution or a dense layer is folded into it (of
    a mixture, the branch of the domain), and all weights are cast once per attack, in the attack's
    own graph, from the variables as they are then. On CPUs the gradient of a convolution with
    stride 1 is computed as a convolution, too, which is faster.

    This is a network of its own that shares the model's variables. The model itself is not changed,
    so other threads can call, evaluate or train it meanwhile.

    Functional and sequential models are prepared in this way, and those in their graphs, at any
    depth. Subclassed models, layers that hold other layers, and models whose layers pass on masks
    are called as they are: with the same numbers, only slower.

    Args:
        model: A Keras model, images -> logits.
        domain: `"adv"` or `"clean"`, the branch of every mixture.
        precision: `"float32"` leaves every layer its own dtype policy. `"bfloat16"` and `"float16"`
            compute in that dtype what is safe in it: convolutions, dense layers, batch
            normalization, activations, sums and pooling, up to the layer that makes the logits. All
            other layers stay as they are, and so do the images, up to the first layer that
            computes.
        fold: Boolean, whether to fold. With False in float32, the model is called as it is.
        rematerialize: Boolean, as in `tfadv.models.call`.

    Call arguments:
        images: Its input, float32.

    Returns:
        Logits `[batch, classes]` at inference.

    Raises:
        ValueError: For another domain or precision, and for a lower precision than float32 of a
            model that is called as it is.

    Example:

    ```python
    network = tfadv.models.Frozen(model, precision="bfloat16")
    adversarial = attack(network, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        domain: str = "adv",
        precision: str = "float32",
        fold: bool = True,
        rematerialize: bool = False,
    ):
        if domain not in ("adv", "clean"):
            raise ValueError(f'domain must be "adv" or "clean"; received {domain!r}')
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; received {precision!r}")
        if precision != "float32" and not _is_graph(model):
            # It would be computed in float32 without a word.
            raise ValueError(
                f"precision={precision!r} needs a functional or sequential model without masks; "
                f"received {type(model).__name__} {model.name!r} (use precision='float32')"
            )
        self.model = model
        self.domain = domain
        self.precision = precision
        self.fold = fold
        self.rematerialize = rematerialize

    def __call__(self, images: Any) -> tf.Tensor:
        return self.prepare()(images)

    def prepare(self) -> Callable[[Any], tf.Tensor]:
        """Computes what does not depend on images, and returns the function images -> logits."""
        substitutes = self._substitutes()

        def logits(images):
            outputs = calling.run(
                self.model,
                images,
                training=False,
                domain=self.domain,
                rematerialize=self.rematerialize,
                substitutes=substitutes,
            )
            return calling.single_output(self.model, outputs)

        return logits

    def _substitutes(self):
        dtype = None if self.precision == "float32" else self.precision
        if (dtype is None and not self.fold) or not _is_graph(self.model):
            return {}
        whole = keras_internals.function_of(self.model)
        return {
            id(part): self._substitutes_in(part, dtype, part is whole)
            for part in graphs.parts(self.model)
        }

    def _substitutes_in(self, part, dtype, is_whole):
        # The loss needs more of the logits than the 8 bits of bfloat16.
        ends = part.outputs if is_whole and dtype is not None else []
        kept = {id(node.operation) for node in map(keras_internals.producer, ends) if node}
        substitutes = folding.folded(part, self.domain, dtype) if self.fold else {}
        substitutes |= folding.unfolded(part, self.domain, dtype, kept | substitutes.keys())
        if dtype is not None:
            for node in keras_internals.nodes(part):
                operation = node.operation
                if type(operation) in _ANY_DTYPE and id(operation) not in kept:
                    # Called as a layer, it would cast to its policy's dtype first.
                    substitutes[id(operation)] = _cast_call(operation.call, dtype)
        return substitutes


def _is_graph(model):
    has_graph = keras_internals.function_of(model) is not None
    return has_graph and graphs.masking(model) is None


def _cast_call(call, dtype):
    def cast(x):
        return tf.cast(x, dtype) if tf.is_tensor(x) and x.dtype.is_floating else x

    return lambda *args, **_: call(*tf.nest.map_structure(cast, args))


# Layers that compute in whatever they are given, without weights, and lose nothing in 16 bits that
# their inputs had. Not the means over whole images, whose sums may be too long for 16 bits.
_ANY_DTYPE = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Concatenate,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    *(
        getattr(keras.layers, f"{kind}{rank}D")
        for kind in ("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling")
        for rank in (1, 2, 3)
    ),
)
