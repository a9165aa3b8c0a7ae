import keras
import tensorflow as tf

from tfadv import layers
from tfadv.arguments import Immutable
from tfadv.models import calling, folding, graphs

PRECISIONS = ("float32", "bfloat16", "float16")


class Frozen(Immutable):
    """A network as an attack meets it: its weights stand still, and so can be prepared once.

    Each batch normalization that alone follows a convolution, a depthwise convolution or a dense
    layer is folded into it, a mixture's through the branch of the domain, and all weights are cast
    once for a whole attack, in the attack's own graph, from the variables as they are then. On
    CPUs the gradient of a convolution with stride 1 is made as a convolution, too, which is faster.
    The model itself is not changed. In functional and sequential models, and in those nested in any
    model; what else there is computes as it always does.

    Args:
        model: A Keras model, images -> logits.
        domain: `"adv"` or `"clean"`, the branch of every mixture.
        precision: `"float32"` leaves every layer its own dtype policy; `"bfloat16"` and `"float16"`
            compute in that dtype what is safe in it: convolutions, dense layers, batch
            normalization, activations, sums and pooling, up to the layer that makes the logits. All
            other layers stay as they are, and the images, too, up to the first layer that computes.
        fold: Boolean, whether to fold at all. False, in float32: the model as it is.
        rematerialize: Boolean, as of `tfadv.models.call`.

    Call arguments:
        images: Its input, float32.

    Returns:
        Logits `[batch, classes]`, of inference.

    Raises:
        ValueError: For another domain or precision.

    Example:

    ```python
    network = tfadv.models.Frozen(model, precision="bfloat16")
    adversarial = attack(network, images, labels, value_range=(0, 255), seed=(0, 0))
    ```
    """

    def __init__(self, model, domain="adv", precision="float32", fold=True, rematerialize=False):
        if domain not in ("adv", "clean"):
            raise ValueError(f'domain must be "adv" or "clean"; received {domain!r}')
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; received {precision!r}")
        self.model = model
        self.domain = domain
        self.precision = precision
        self.fold = fold
        self.rematerialize = rematerialize

    def __call__(self, images):
        return self.prepare()(images)

    def prepare(self):
        """The function images -> logits, with all that does not depend on images computed now."""
        tables = [] if graphs.masking(self.model) is not None else self._tables()

        def logits(images):
            return calling.call(
                self.model,
                images,
                training=False,
                domain=self.domain,
                rematerialize=self.rematerialize,
                tables=tables,
            )

        return logits

    def _tables(self):
        dtype = None if self.precision == "float32" else self.precision
        if dtype is None and not self.fold:
            return []
        whole = graphs.functional(self.model)
        tables = []
        for part in graphs.parts(self.model):
            # The loss needs more of the logits than the 8 bits of bfloat16.
            outputs = part.outputs if part is whole and dtype is not None else []
            kept = {id(tensor._keras_history.operation) for tensor in outputs}
            found = folding.folded(part, self.domain, dtype) if self.fold else {}
            found.update(folding.unfolded(part, self.domain, dtype, kept | found.keys()))
            tables.append((part, _chooser(part, found, dtype, kept)))
        return tables


def _chooser(part, found, dtype, kept):
    mixtures = {id(layer) for layer in folding.mixtures(part)} & found.keys()

    def choose(operation, operation_fn):
        if id(operation) in mixtures:
            layers.scope.current().seen.add(id(operation))
        if id(operation) in found:
            return found[id(operation)]
        if dtype is not None and type(operation) in _ANY_DTYPE and id(operation) not in kept:
            # Called whole, a layer would cast to its policy's dtype first.
            return lambda *args, **_: operation.call(*_cast(args, dtype))
        return operation_fn(operation)

    return choose


def _cast(values, dtype):
    return tf.nest.map_structure(
        lambda x: tf.cast(x, dtype) if tf.is_tensor(x) and x.dtype.is_floating else x, values
    )


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
