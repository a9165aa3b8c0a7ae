"""Calls of a model with a domain for its mixtures."""

from typing import Any

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.arguments import is_integer
from tfadv.layers import scope
from tfadv.layers.batch_normalization import BatchNormalization
from tfadv.layers.mixture_batch_normalization import MixtureBatchNormalization
from tfadv.models import graphs, rematerialization, structures


def call(
    model: keras.Model,
    images: Any,
    training: bool = False,
    domain: Any = "adv",
    running_statistics: bool = False,
    rematerialize: bool = False,
) -> tf.Tensor:
    """Calls a model with a domain, which every mixture in it obeys.

    The choice holds for this call alone, however deep the mixtures lie. A `tf.function` around this
    call traces it, so key that function on `domain`.

    Args:
        model: A Keras model.
        images: Its input, images first: a tensor, or what the model takes in its place.
        training: Boolean, Keras's own `training`.
        domain: `"adv"` or `"clean"` sends all images through that branch. A number `n` (a Python
            integer or a scalar integer tensor) sends the first `n` images through the adv branch
            and the rest through the clean one. A model without mixtures ignores it.
        running_statistics: Boolean, whether batch normalization uses its moving statistics although
            `training` is true (Section 4.3).
        rematerialize: Boolean, whether a gradient computes the activations of the model's blocks
            again instead of keeping them. Functional and sequential models only.

    Returns:
        The model's output; if it is a dictionary, list or tuple of one tensor, that tensor.

    Raises:
        ValueError: If `domain` is none of these, if the model returns several outputs, or if it is
            not made for `running_statistics` or `rematerialize`.
        RuntimeError: If a mixture of the model did not see this call, and so would have taken a
            branch that nobody chose.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=64)
    clean_logits = tfadv.models.call(model, images, domain="clean")
    mixed_logits = tfadv.models.call(model, images, training=True, domain=2)
    ```
    """
    outputs = run(model, images, training, domain, running_statistics, rematerialize)
    return single_output(model, outputs)


def single_output(model: keras.Model, outputs: Any) -> Any:
    """Returns the one tensor, or Keras tensor, of what a model returns.

    Raises:
        ValueError: If there are several.
    """
    return structures.single(outputs, f"the output of model {model.name!r}")


def output_spec(model: keras.Model, spec: Any) -> Any:
    """Returns what a model returns, as Keras tensors in its structure.

    Args:
        model: A Keras model.
        spec: `tf.TensorSpec`s in the structure of its input.

    Raises:
        ValueError: If there are several outputs, declared or not.
    """
    if isinstance(model, keras.Function):
        outputs = model.output
    elif getattr(model, "outputs", None):
        [outputs] = model.outputs  # of a sequential one
    else:
        spec = tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
        outputs = model.compute_output_spec(spec)
    single_output(model, outputs)
    return outputs


def run(
    model: keras.Model,
    images: Any,
    training: bool,
    domain: Any,
    running_statistics: bool = False,
    rematerialize: bool = False,
    apart: bool = False,
    substitutes: graphs.Substitutes | None = None,
) -> Any:
    """Like `call`, but returns the model's output in its own structure.

    Args:
        apart: Whether batch normalization takes the statistics of the two domains apart.
        substitutes: Functions to call instead of operations, as in `graphs.rewired`.
    """
    if not _is_domain(domain):
        raise ValueError(
            'domain must be "adv", "clean" or the number of adversarial images; '
            f"received {domain!r}"
        )
    images = structures.inputs(model, images)
    if running_statistics and training:
        substitutes = check_running_statistics(model)
    with scope.enter(domain, running_statistics, apart) as entered:
        if rematerialize:
            outputs = rematerialization.run(model, images, training, substitutes)
        elif substitutes:
            outputs = graphs.rewired(model, substitutes)(images, training=training)
        else:
            outputs = model(images, training=training)
    missed = [layer for layer in mixtures(model) if id(layer) not in entered.seen]
    if missed:
        raise RuntimeError(
            f"model {model.name!r} called its mixture {missed[0].path!r} outside of this call, "
            f"through a cached function or not at all, so it did not see domain={domain!r}"
        )
    return outputs


def _is_domain(domain):
    if isinstance(domain, str):
        return domain in ("adv", "clean")
    if tf.is_tensor(domain) and not domain.dtype.is_integer:
        return False
    if is_integer(domain):
        # A negative number would be counted from the end of the batch, silently.
        return domain >= 0
    return tf.is_tensor(domain) and domain.shape.rank in (0, None)


def check_running_statistics(model: keras.Model) -> graphs.Substitutes:
    """Checks that all batch normalization of a model can train on its moving statistics.

    tfadv's own looks at the scope of the call. Keras's is called as in inference in its place, for
    which it must lie in a graph: elsewhere only a change of the layer itself would reach it, which
    other threads would see.

    Args:
        model: A Keras model.

    Returns:
        Functions to call instead of Keras's own batch normalizations, as in `graphs.rewired`.

    Raises:
        ValueError: If one of Keras's lies in a subclassed model or in another layer.
    """
    plain = {id(layer): layer for layer in _not_ours(model)}
    if not plain:
        return {}
    substitutes = {}
    for part in graphs.parts(model):
        layers = [node.operation for node in keras_internals.nodes(part)]
        substitutes[id(part)] = {
            id(layer): _at_inference(layer) for layer in layers if id(layer) in plain
        }
    for layer in plain.values():
        if not any(id(layer) in each for each in substitutes.values()):
            raise ValueError(
                "running statistics need tfadv.layers.BatchNormalization inside of subclassed "
                f"models and layers; received Keras's {layer.path!r} (tfadv.models.convert(part, "
                "'bn') replaces those of a functional part)"
            )
    return substitutes


def check_apart(model: keras.Model) -> None:
    """Raises `ValueError` unless batch normalization can take the domains of a batch apart."""
    mixed = [layer for layer in mixtures(model) if layer.statistics == "separate"]
    if mixed:
        raise ValueError(
            "batch_statistics must be 'together' for a model with mixtures of separate statistics, "
            f"which are apart anyway; {model.name!r} has {mixed[0].path!r}"
        )
    for layer in _not_ours(model):
        raise ValueError(
            "batch_statistics='apart' needs tfadv.layers.BatchNormalization; received Keras's "
            f"{layer.path!r} (tfadv.models.convert(model, 'bn') replaces it)"
        )


def _not_ours(model):
    return [
        layer
        for layer in keras_internals.flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, BatchNormalization)
    ]


def _at_inference(layer):
    return lambda *args, **kwargs: layer(*args, **{**kwargs, "training": False})


def mixtures(model: keras.Model) -> list[MixtureBatchNormalization]:
    """Returns all `MixtureBatchNormalization` layers of a model, however deep they lie."""
    return [
        layer
        for layer in keras_internals.flatten_layers(model)
        if isinstance(layer, MixtureBatchNormalization)
    ]
