import collections
import dataclasses

import keras
import numpy as np

from tfadv import keras_internals
from tfadv.layers import MixtureBatchNormalization


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What one batch normalization holds: a plain one, or one of the two of a mixture.

    Args:
        path: String, the layer's name; where several layers of the model have that name, the names
            of the models around it come first, `"encoder/norm"`.
        domain: `"adv"` or `"clean"`, the branch of a mixture; None for a plain batch normalization.
        moving_mean, moving_variance: Arrays `[channels]`, float32 or float64.
        gamma, beta: Arrays `[channels]`, or None where the layer has none. Of a mixture with shared
            affine parameters both branches show the same.
        epsilon: Float, what the layer adds to the variance.
    """

    path: str
    domain: str | None
    moving_mean: np.ndarray
    moving_variance: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    epsilon: float


def statistics(model):
    """Collects the statistics and parameters of all batch normalization of a model.

    Args:
        model: A Keras model, with mixtures, tfadv's or Keras's own batch normalization, nested
            models included.

    Returns:
        A list of `LayerStatistics` in network order, the two branches of a mixture one after the
        other, adv first; empty for a model without batch normalization. The arrays are copies.

    Raises:
        ValueError: If the model is not built yet.
    """
    return [
        record
        for path, layer in normalizations(model).items()
        for record in layer_records(path, layer)
    ]


def layer_records(path, layer):
    """The records of one layer of `normalizations`: one, or the two of a mixture."""
    if not layer.built:
        raise ValueError(f"model must be built; its layer {path!r} has no statistics yet")
    if isinstance(layer, MixtureBatchNormalization):
        return [_record(path, "adv", layer.adv), _record(path, "clean", layer.clean)]
    return [_record(path, None, layer)]


def pairs(records):
    """The mixtures among the records of `statistics`.

    Returns:
        A dictionary in network order, path -> (adv record, clean record).
    """
    found = collections.defaultdict(dict)
    for record in records:
        if record.domain is not None:
            found[record.path][record.domain] = record
    return {path: (domains["adv"], domains["clean"]) for path, domains in found.items()}


def normalizations(model):
    """The mixtures and the plain batch normalizations of a model.

    Returns:
        A dictionary in network order, path (of `LayerStatistics`) -> layer.
    """
    found = list(_walk(model, (), set()))
    times = collections.Counter(names[-1] for names, _ in found)
    layers = {}
    for names, layer in found:
        path = names[-1] if times[names[-1]] == 1 else "/".join(names)
        number = 2
        unique = path
        while unique in layers:  # a subclassed model may give two of its layers one name
            unique = f"{path}_{number}"
            number += 1
        layers[unique] = layer
    return layers


def _walk(layer, names, seen):
    # Not all layers of the model at once: Keras gives those of a nested model backwards.
    for part in keras_internals.flatten_layers(layer, include_self=False, recursive=False):
        if id(part) in seen:
            continue
        seen.add(id(part))
        here = (*names, part.name)
        if isinstance(part, MixtureBatchNormalization | keras.layers.BatchNormalization):
            yield here, part
        else:
            yield from _walk(part, here, seen)


def _record(path, domain, layer):
    return LayerStatistics(
        path=path,
        domain=domain,
        moving_mean=_array(layer.moving_mean),
        moving_variance=_array(layer.moving_variance),
        gamma=_array(layer.gamma),
        beta=_array(layer.beta),
        epsilon=float(layer.epsilon),
    )


def _array(variable):
    if variable is None:
        return None
    # A copy: what is looked at must not change with the training that goes on.
    values = np.array(keras.ops.convert_to_numpy(variable))
    # Keras's own layer keeps half precision under a half policy; NumPy cannot plot or sum it well.
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
