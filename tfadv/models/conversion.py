"""Copies of models with other normalization layers."""

import inspect

import keras
import tensorflow as tf

from tfadv import keras_internals
from tfadv.layers import (
    BatchNormalization,
    GroupedConv2D,
    GroupNormalization,
    InputContract,
    MixtureBatchNormalization,
    NonLocalMeans,
)
from tfadv.layers import normalization as make_normalization
from tfadv.models import calling
from tfadv.models.logits_only import WithoutActivation
from tfadv.tables.normalizations import check as check_norm


def convert(model: keras.Model, norm: str) -> keras.Model:
    """Copies a model and replaces every batch normalization with another normalization.

    The copy has the weights of the model. Both branches of a mixture start as the batch
    normalization that they replace; group, layer and instance normalization take its gamma and
    beta. Axis, momentum, epsilon, initializers, regularizers and `trainable` are kept where the new
    layer has them.

    Args:
        model: A functional or sequential Keras model, for example any of `keras.applications`.
            Functional and sequential models nested in it are converted, too.
        norm: `"bn"` (tfadv's, which can train with running statistics), `"mbn"`, `"gn"`, `"ln"`
            or `"in"`.

    Returns:
        A new model, not compiled, that shares nothing with the old one.

    Raises:
        ValueError: For an unknown norm, a model that cannot be cloned (for example one with a
            Lambda layer), a model without batch normalization, or one with batch normalization
            inside a layer that is not a functional model, where it cannot be replaced.

    Example:

    ```python
    plain = keras.applications.ResNet50(weights=None)
    model = tfadv.models.convert(plain, "mbn")
    ```
    """
    check_norm(norm)
    if calling.mixtures(model):
        raise ValueError(
            f"model must hold plain batch normalization; {model.name!r} has mixtures "
            "(tfadv.models.extract takes one branch of each)"
        )
    if not any(map(_is_plain, keras_internals.flatten_layers(model))):
        raise ValueError(f"model must have batch normalization to convert; {model.name!r} has none")

    def replace(layer):
        if not _is_plain(layer):
            return None
        config = layer.get_config()
        kept = ("name", "dtype", "trainable", "axis", "center", "scale", *_PARAMETER_OPTIONS)
        options = {key: config[key] for key in kept}
        if norm in ("bn", "mbn"):
            renorm = getattr(layer, "renorm", False)  # since Keras 3.14
            if renorm or layer.synchronized:
                raise ValueError(
                    f"norm={norm!r} needs batch normalization with each worker's own statistics; "
                    f"layer {layer.path!r} has renorm={renorm}, "
                    f"synchronized={layer.synchronized}"
                )
            options.update({key: config[key] for key in ("momentum", "epsilon", *_MOVING_OPTIONS)})
        return make_normalization(norm, layer.moving_mean.shape[0], **options)

    def copy_weights(old, new):
        if isinstance(new, MixtureBatchNormalization):
            for branch in (new.adv, new.clean):
                branch.set_weights(old.get_weights())
        elif isinstance(new, BatchNormalization):
            new.set_weights(old.get_weights())
        else:
            for name in ("gamma", "beta"):
                if getattr(old, name) is not None:
                    getattr(new, name).assign(getattr(old, name))

    return _clone(model, replace, copy_weights)


def extract(model: keras.Model, domain: str) -> keras.Model:
    """Copies a model as plain Keras, with one branch of every mixture.

    Other tools, servers and exporters need this: each mixture and each of tfadv's batch
    normalizations becomes a `keras.layers.BatchNormalization`, the input contract a
    `keras.layers.Rescaling`, grouped convolutions and group normalizations become Keras's own, and
    non-local means become a nested model of Keras's operations. The saved copy loads without tfadv.

    Args:
        model: A functional or sequential Keras model. Functional and sequential models nested in it
            are copied in the same way.
        domain: `"adv"` for the robust branch, `"clean"` for the one that is accurate on clean
            images.

    Returns:
        A new model, not compiled, whose inference equals that of the branch.

    Raises:
        ValueError: For another domain or a model that cannot be cloned.

    Example:

    ```python
    robust = tfadv.models.extract(model, "adv")
    robust.save("robust.keras")
    ```
    """
    if domain not in ("adv", "clean"):
        raise ValueError(f'domain must be "adv" or "clean"; received {domain!r}')

    def chosen(layer):
        if isinstance(layer, MixtureBatchNormalization):
            return layer.adv if domain == "adv" else layer.clean
        return layer

    def replace(layer):
        if isinstance(layer, InputContract):
            scale, offset = layer.scale_and_offset
            # In float32 as the contract, whatever the policy; the next layer casts.
            return keras.layers.Rescaling(scale, offset, name=layer.name, dtype="float32")
        if isinstance(layer, GroupedConv2D):
            return keras.layers.Conv2D.from_config(layer.get_config())
        if isinstance(layer, GroupNormalization):
            return keras.layers.GroupNormalization.from_config(layer.get_config())
        if isinstance(layer, NonLocalMeans):
            return _as_operations(layer)
        if isinstance(layer, WithoutActivation):
            config = {**layer.layer.get_config(), "activation": "linear"}
            return type(layer.layer).from_config(config)
        source = chosen(layer)
        if not isinstance(source, BatchNormalization):
            return None
        config = {**source.get_config(), "name": layer.name}
        if tf.as_dtype(source.variable_dtype).size < 4:
            # Keras's would round the float32 statistics; the mixed policy computes the same.
            config["dtype"] = f"mixed_{source.variable_dtype}"
        return keras.layers.BatchNormalization.from_config(config)

    def copy_weights(old, new):
        new.set_weights(chosen(old).get_weights())

    return _clone(model, replace, copy_weights)


def _as_operations(layer):
    """Makes a functional model that computes what a layer without weights does."""
    inputs = [keras.Input(shape, dtype=layer.compute_dtype) for shape in layer.shapes]
    return keras.Model(inputs, layer.call(inputs), name=layer.name)


_PARAMETER_OPTIONS = tuple(
    f"{parameter}_{option}"
    for parameter in ("gamma", "beta")
    for option in ("initializer", "regularizer", "constraint")
)
_MOVING_OPTIONS = ("moving_mean_initializer", "moving_variance_initializer")


def _is_plain(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def _clone(model, replace, copy_weights):
    """Clones a model, with `replace(layer)` where that is not None, and copies every weight."""
    if not _is_cloneable(model):
        raise ValueError(
            "model must be functional or sequential to be cloned; "
            f"received the subclassed {type(model).__name__} {model.name!r}"
        )
    if not model.built:
        raise ValueError(
            f"model must be built to be cloned, by its first call or a keras.Input; {model.name!r} "
            "is not built"
        )
    copies = {}

    def clone(layer):
        # Once, however many places of the model the layer has.
        if id(layer) not in copies:
            copies[id(layer)] = (layer, *clone_once(layer))
        return copies[id(layer)][1]

    def clone_once(layer):
        if _is_cloneable(layer):
            # Not Keras's `recursive=True`: below a sequential model it forgets `call_function`.
            options = {} if isinstance(layer, keras.Sequential) else {"call_function": _call}
            # Keras would compile the copy too, which not every loss and metric allows.
            source = keras_internals.twin(layer, compiled=False)
            return keras.models.clone_model(source, clone_function=clone, **options), None
        if not isinstance(layer, keras.Layer):  # an operation, such as that of `x + y`
            return _copied(layer), None
        new = replace(layer)
        if new is not None:
            return new, copy_weights
        parts = keras_internals.flatten_layers(layer, include_self=False)
        inside = [part for part in parts if replace(part)]
        if inside:
            raise ValueError(
                f"every layer to replace must lie in a functional model; {inside[0].path!r} "
                f"lies in a {type(layer).__name__}"
            )
        return _copied(layer), _copy_all

    copy = clone(model)
    for old, new, copy_into in copies.values():
        if copy_into is not None:
            copy_into(old, new)
    return copy


def _is_cloneable(layer):
    return isinstance(layer, keras.Sequential | keras.Function)


def _copied(layer):
    """Makes a layer or operation again from its configuration; raises `ValueError` in one line."""
    try:
        return layer.__class__.from_config(layer.get_config())
    except Exception as error:  # a layer of the user's may raise anything
        kind, path = type(layer).__name__, getattr(layer, "path", None) or layer.name
        reason = "write its function as a layer with keras.ops"
        if not isinstance(layer, keras.layers.Lambda):
            # Keras's own message holds a whole configuration, and then the reason.
            lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {(lines or [''])[-1]}"
        raise ValueError(
            "every layer must be one that Keras makes again from its get_config; "
            f"received {path!r}, of class {kind} ({reason})"
        ) from None


def _call(layer, *args, **kwargs):
    # A model records `mask=None` for the layers it was built with, and Keras's group normalization
    # takes no mask.
    if "mask" not in inspect.signature(layer.call).parameters:
        kwargs.pop("mask", None)
    return layer(*args, **kwargs)


def _copy_all(old, new):
    new.set_weights(old.get_weights())
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # It computes with constants, which it makes from its weights here.
