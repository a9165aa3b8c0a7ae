import keras
import tensorflow as tf

from tfadv.arguments import is_integer
from tfadv.layers import scope
from tfadv.layers.batch_normalization import BatchNormalization
from tfadv.layers.mixture_batch_normalization import MixtureBatchNormalization
from tfadv.models import graphs, rematerialization, structures


def call(
    model,
    images,
    training=False,
    domain="adv",
    running_statistics=False,
    rematerialize=False,
    tables=(),
):
    """Calls a model with a domain, which every mixture in it obeys.

    The choice holds for this call alone, at whatever depth the mixtures lie. Inside a
    `tf.function` it is part of what is traced: key such a function on `domain`.

    Args:
        model: A Keras model.
        images: Its input, images first: a tensor, or what the model takes in its place.
        training: Boolean, Keras's own `training`.
        domain: `"adv"` or `"clean"` sends all images through that branch; a number `n` (a Python
            integer or a scalar tensor) the first `n` through the adv branch, the rest through the
            clean one. Models without a mixture give the same for all of them.
        running_statistics: Boolean, whether batch normalization uses its moving statistics though
            `training` is true (Section 4.3).
        rematerialize: Boolean, whether a gradient computes the activations of the model's blocks
            again in place of keeping them (`tfadv.models.rematerialization`).
        tables: What to call in the place of some operations, as of `graphs.substituted`; for
            `tfadv.models.Frozen`.

    Returns:
        The model's output; of a dictionary, list or tuple of one, that one.

    Raises:
        ValueError: If `domain` is none of these, or if the model returns several outputs.
        RuntimeError: If a mixture of the model did not see this call, and so would have taken a
            branch that nobody chose.
    """
    outputs = run(model, images, training, domain, running_statistics, rematerialize, tables)
    return structures.single(outputs, _output_of(model))


def output_spec(model, spec):
    """What a model returns, as Keras tensors in its structure.

    Args:
        model: A Keras model.
        spec: Of its input: `tf.TensorSpec`s in its structure.

    Raises:
        ValueError: If there are several, also where the model does not say what it has.
    """
    if isinstance(model, keras.Function):
        outputs = model.output
    elif getattr(model, "outputs", None):
        [outputs] = model.outputs  # of a sequential one
    else:
        spec = tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
        outputs = model.compute_output_spec(spec)
    structures.single(outputs, _output_of(model))
    return outputs


def _output_of(model):
    return f"the output of model {model.name!r}"


def run(
    model,
    images,
    training,
    domain,
    running_statistics=False,
    rematerialize=False,
    tables=(),
):
    """Like `call`, but returns what the model returns, in whatever structure."""
    if not _is_domain(domain):
        raise ValueError(
            'domain must be "adv", "clean" or the number of adversarial images; '
            f"received {domain!r}"
        )
    images = structures.inputs(model, images)
    plain = _plain_normalizations(model) if running_statistics else ()
    with scope.enter(domain, running_statistics, plain) as entered:
        if rematerialize:
            outputs = rematerialization.run(model, images, training, tables)
        else:
            with graphs.substituted(tables):
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


def _plain_normalizations(model):
    return tuple(
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, BatchNormalization)
    )


def mixtures(model):
    """All `MixtureBatchNormalization` layers of a model, nested ones too."""
    return [
        layer for layer in model._flatten_layers() if isinstance(layer, MixtureBatchNormalization)
    ]
